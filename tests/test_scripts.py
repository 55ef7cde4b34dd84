"""Test that scripts report errors in one line with exit code 1, and show the progress of pip."""

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pip
import pytest

from tests.support.checkout import clone, environ


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
    """Write a stand-in for an interpreter of this version; it only answers `--version`."""
    path = folder / "python-stand-in"
    path.write_text(f'#!/bin/sh\n[ "$1" = --version ] && echo Python {version} && exit 0\nexit 1\n')
    path.chmod(0o755)
    return str(path)


@pytest.mark.parametrize("version", ["3.10.14", "3.15.0"])
def test_unsupported_python_is_reported(checkout: Path, tmp_path: Path, version: str) -> None:
    python = fake_python(tmp_path, version)
    line = refused(checkout, "serve", PYTHON=python)
    assert (
        line
        == f"error: no Python from 3.11 to 3.14 found ({python} is {version}); name one: PYTHON=python3.12"
    )


def make_venv(checkout: Path) -> None:
    """With the pip of this suite, because ensurepip takes seconds to install one."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", checkout / ".venv"], check=True)
    (site,) = (checkout / ".venv").glob("lib/python*/site-packages")
    (site / "pip").symlink_to(Path(pip.__file__).parent)


def test_pip_fails(checkout: Path) -> None:
    make_venv(checkout)
    line = refused(checkout, "serve", PIP_NO_INDEX="1", PIP_FIND_LINKS="", PIP_CONFIG_FILE=os.devnull)
    assert line.startswith("error: pip failed: ERROR: ")
    assert "pip.log" in line


def test_serve_shows_help_without_installing(checkout: Path) -> None:
    (checkout / "mine/service").mkdir(parents=True)
    (
        checkout / "mine/service/__init__.py"
    ).touch()  # a package of the caller, which must not be used instead
    for argument, code in (("--help", 0), ("--port", 2), ("model.onnx", 2), ("photo.jpg", 2)):
        done = subprocess.run(
            ["../scripts/serve", argument],
            cwd=checkout / "mine",
            env=environ(),
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == code
        assert "python -m" not in done.stdout + done.stderr
        assert f"scripts/{'predict' if argument == 'photo.jpg' else 'serve'}" in done.stdout + done.stderr
    assert not (checkout / ".venv").exists()


def test_an_installation_shows_how_far_it_is(checkout: Path) -> None:
    make_venv(checkout)
    with zipfile.ZipFile(checkout / "tiny-1.0-py3-none-any.whl", "w") as wheel:
        for name, text in {
            "METADATA": "Metadata-Version: 2.1\nName: tiny\nVersion: 1.0\n",
            "WHEEL": "Wheel-Version: 1.0\nGenerator: none\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
            "RECORD": "",
        }.items():
            wheel.writestr(f"tiny-1.0.dist-info/{name}", text)
    project = '[project]\ndependencies = ["tiny"]\noptional-dependencies = {cpu = []}\n'
    (checkout / "pyproject.toml").write_text(project)
    (checkout / "constraints.txt").write_text("")
    command = ["bash", "-c", "set -euo pipefail; . scripts/environment.sh; prepare $root/.venv cpu"]
    env = environ(PIP_NO_INDEX="1", PIP_FIND_LINKS=str(checkout), PIP_CONFIG_FILE=os.devnull)
    first, again = (
        subprocess.run(command, cwd=checkout, env=env, capture_output=True, text=True, check=True)
        for _time in range(2)
    )
    assert (first.stdout, again.stdout, again.stderr) == ("", "", "")
    assert first.stderr == "installing into .venv: cpu\nInstalling collected packages\n"
    assert "Successfully installed tiny-1.0" in (checkout / ".venv/pip.log").read_text()


def test_unknown_device_is_reported(checkout: Path) -> None:
    assert refused(checkout, "serve", DEVICE="tpu") == "error: DEVICE is 'tpu'; use auto, cpu or cuda"


@pytest.mark.skipif(
    shutil.which("nvidia-smi") is not None, reason="with a GPU, the script itself can be run"
)
def test_gpu_check_without_a_gpu_is_reported(checkout: Path) -> None:
    line = refused(checkout, "gpu-check")
    assert line.startswith("error: no NVIDIA GPU with a driver of 580 or newer answers")
