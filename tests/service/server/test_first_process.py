"""Test signals to process 1 of a container, which ignores those for which it has no handler."""

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support.checkout import ROOT
from tests.support.eventually import eventually
from tests.support.serving.server import environ

STARTS_S = 60.0

pytestmark = pytest.mark.skipif(
    not sys.platform.startswith("linux") or os.getuid() != 0, reason="only root can create a PID namespace"
)


@contextmanager
def first(image: str, *arguments: str, **settings: object) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """Start an image's command as process 1; yield it and its pid here, once Python has started."""
    entry = re.search(r"^ENTRYPOINT (.*)$", (ROOT / f"docker/{image}.Dockerfile").read_text(), re.M)
    assert entry is not None
    python = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    with subprocess.Popen(
        ["unshare", "--pid", "--fork", "--kill-child", *json.loads(entry[1]), *arguments],
        env=environ(path=python, **settings),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        try:
            children = Path(f"/proc/{process.pid}/task/{process.pid}/children")

            def child() -> str:
                assert process.poll() is None
                return children.read_text().strip()

            def runs_python() -> bool:
                assert process.poll() is None
                return "python" in Path(f"/proc/{pid}/comm").read_text()

            pid = eventually(child)
            eventually(runs_python)
            yield process, int(pid)
        finally:
            process.kill()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize(
    ("image", "arguments", "code"),
    [
        ("service", (), {signal.SIGTERM: 0, signal.SIGINT: 0}),
        ("service", ("predict", "."), {signal.SIGTERM: 143, signal.SIGINT: 130}),
        ("training", ("summary",), {signal.SIGTERM: 130, signal.SIGINT: 130}),
    ],
)
def test_a_signal_while_python_starts_is_not_lost(
    image: str, arguments: tuple[str, ...], code: dict[signal.Signals, int], number: signal.Signals
) -> None:
    with first(image, *arguments) as (process, pid):
        os.kill(pid, number)
        output, _ = process.communicate(timeout=STARTS_S)
        assert (process.returncode, output) == (code[number], "")


@pytest.mark.parametrize("workers", [1, 2])
def test_a_signal_while_models_are_loaded_is_not_lost(model_file: Path, workers: int) -> None:
    settings = {"model": model_file, "log_format": "json", "workers": workers, "decode_processes": 1}
    with first("service", **settings) as (process, pid):
        assert process.stdout is not None
        assert any("loading and warming" in line for line in process.stdout)
        os.kill(pid, signal.SIGTERM)
        process.communicate(timeout=STARTS_S)
        assert process.returncode == 0


def test_a_signal_before_training_has_begun_is_not_lost(tmp_path: Path) -> None:
    """The training waits for a recipe that is a pipe without data."""
    recipe = tmp_path / "recipe.toml"
    os.mkfifo(recipe)
    options = ("--recipe", str(recipe), "--data", str(tmp_path), "--out", str(tmp_path / "out"))
    with first("training", "train", *options) as (process, pid):
        with recipe.open("w"):  # blocks until training opens it: by then all is imported
            eventually(lambda: "pipe_read" in Path(f"/proc/{pid}/wchan").read_text())
            os.kill(pid, signal.SIGTERM)
            output, _ = process.communicate(timeout=STARTS_S)
        assert (process.returncode, output) == (130, "interrupted before there was anything to save\n")
