"""What the scripts say when something is missing: one line, exit code 1."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.checkout import clone, environ


def refused(checkout: Path, script: str, **changes: str) -> str:
    done = subprocess.run(
        [checkout / "scripts" / script], env=environ(**changes), capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    *progress, last = done.stderr.splitlines()
    assert all(line.startswith("installing into .venv") for line in progress)
    return last


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    return clone(tmp_path / "clone")


def fake_python(folder: Path, version: str) -> str:
    """A stand-in for an interpreter that is not installed here: it answers to the version check alone."""
    path = folder / "python-stand-in"
    path.write_text(f'#!/bin/sh\n[ "$1" = --version ] && echo Python {version} && exit 0\nexit 1\n')
    path.chmod(0o755)
    return str(path)


@pytest.mark.parametrize("version", ["3.10.14", "3.15.0"])
def test_python_too_old_or_too_new(checkout: Path, tmp_path: Path, version: str) -> None:
    python = fake_python(tmp_path, version)
    line = refused(checkout, "serve", PYTHON=python)
    assert (
        line
        == f"error: no Python from 3.11 to 3.14 found ({python} is {version}); name one: PYTHON=python3.12"
    )


def test_pip_fails(checkout: Path) -> None:
    line = refused(checkout, "serve", PIP_NO_INDEX="1", PIP_FIND_LINKS="", PIP_CONFIG_FILE=os.devnull)
    assert line.startswith("error: pip failed: ERROR: ")
    assert "pip.log" in line


def test_an_unknown_device(checkout: Path) -> None:
    assert refused(checkout, "serve", DEVICE="tpu") == "error: DEVICE is 'tpu'; use auto, cpu or cuda"


@pytest.mark.skipif(shutil.which("nvidia-smi") is not None, reason="it is run itself where there is a GPU")
def test_the_check_of_the_gpu_needs_one(checkout: Path) -> None:
    line = refused(checkout, "gpu-check")
    assert line.startswith("error: no NVIDIA GPU with a driver of 580 or newer answers")
