"""The files that one image passes, from its bytes to its result, are drawn in docs/architecture.md."""

import re
import threading
from functools import partial
from pathlib import Path
from types import FrameType

from service.models.session import load_model
from tests.support.checkout import ROOT
from tests.support.serving.images import encoded, noise
from tests.support.serving.in_process import serving_in_process

PACKAGES = ("service/", "contract/")


def test_documented_files_are_those_that_an_image_passes(model_file: Path) -> None:
    passed: dict[FrameType, tuple[str, str]] = {}  # a resumed coroutine is called again; count it once

    def record(frame: FrameType, event: str, _arg: object) -> None:
        code = frame.f_code
        file = code.co_filename.removeprefix(f"{ROOT}/")
        if event == "call" and file.startswith(PACKAGES):
            passed.setdefault(frame, (file, code.co_name))

    threading.setprofile(record)  # for all threads that start from now on
    try:
        with serving_in_process(
            model_file, partial(load_model, device="cpu", threads=1), threads=1
        ) as running:
            passed.clear()
            running.client.post("/predict", content=encoded(noise(1))).raise_for_status()
            walk = list(passed.values())
    finally:
        threading.setprofile(None)
    begin = walk.index(("service/inference/tasks.py", "classify"))
    end = walk.index(("service/http/images.py", "json_response"))
    drawn = (ROOT / "docs/architecture.md").read_text().split("## From an image to its result")[1]
    files = set(re.findall(r"[\w/]+\.py", drawn.split("```")[1]))
    assert {file for file, _function in walk[begin:end]} == files
    assert len(files) == 14
