"""Every command and script that docs/protocol.md shows, run against the model that is served by default."""

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.checkout import ROOT, commands
from tests.support.serving.images import encoded, noise
from tests.support.serving.server import Server, serving

DOCUMENT = ROOT / "docs/protocol.md"


@pytest.fixture(scope="module")
def flowers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serving(tmp_path_factory.mktemp("log") / "stderr", ROOT / "models/flowers17.onnx") as running:
        yield running


def printed(command: list[str], folder: Path) -> str:
    done = subprocess.run(
        command,
        cwd=folder,
        env={"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_what_the_document_shows(flowers: Server, tmp_path: Path) -> None:
    photo = encoded(noise(1))
    (tmp_path / "photo.jpg").write_bytes(photo)
    answer = flowers.client.post("/predict", params={"top_k": 3}, content=photo).json()
    best: list[tuple[str, Any]] = [
        (p["label"], pytest.approx(p["probability"], abs=1e-6)) for p in answer["predictions"]
    ]
    there = flowers.address.removeprefix("http://")

    metadata, infer = commands(DOCUMENT)
    described = json.loads(printed(["bash", "-c", metadata.replace("127.0.0.1:8000", there)], tmp_path))
    assert described["inputs"] == [{"name": "images", "datatype": "UINT8", "shape": [-1, 224, 224, 3]}]
    (output,) = json.loads(printed(["bash", "-c", infer.replace("127.0.0.1:8000", there)], tmp_path))[
        "outputs"
    ]
    found = [text.split(":") for text in output["data"]]
    assert [(label, float(value)) for value, _index, label in found] == best

    scripts = re.findall(r"^```python\n(.*?)^```", DOCUMENT.read_text(), re.M | re.S)
    files, pixels = (
        printed([sys.executable, "-c", script.replace("127.0.0.1:8000", there)], tmp_path)
        for script in scripts
    )
    *lines, shape = files.splitlines()
    assert [(label, float(value)) for label, value in (line.rsplit(" ", 1) for line in lines)] == best
    assert shape == "(1, 2048)"
    assert pixels == f"[{' '.join([str(answer['predictions'][0]['index'])] * 3)}]\n"
