"""Arguments to `python -m service`, which takes none: the error suggests the right command."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from service.cli.usage import explain
from service.settings import Settings
from tests.support.checkout import ROOT
from tests.support.serving.command import environ

COMMANDS = pytest.mark.parametrize(
    ("typed", "serve", "predict"),
    [
        ("", "python -m service", "python -m service predict"),
        ("scripts/serve", "scripts/serve", "scripts/predict"),
        (
            "/home/me/alexnet/scripts/serve",
            "/home/me/alexnet/scripts/serve",
            "/home/me/alexnet/scripts/predict",
        ),
    ],
)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/a.onnx").touch()
    (tmp_path / "versions/a/1").mkdir(parents=True)
    (tmp_path / "versions/a/1/model.onnx").touch()
    (tmp_path / "photos").mkdir()
    (tmp_path / "run").mkdir()
    (tmp_path / "run/best.pt").touch()
    (tmp_path / "notes").touch()
    monkeypatch.chdir(tmp_path)
    return tmp_path


@COMMANDS
@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        ("--port 9000", "settings are environment variables; write: PORT=9000 SERVE"),
        ("--port=9000 --host ::1", "settings are environment variables; write: PORT=9000 HOST=::1 SERVE"),
        ("-p 80", "settings are environment variables; write: PORT=80 SERVE"),
        ("9000", "settings are environment variables; write: PORT=9000 SERVE"),
        ("PORT=9000", "settings are environment variables; write: PORT=9000 SERVE"),
        ("--models photos", "settings are environment variables; write: MODELS=photos SERVE"),
        (
            "--top-k 1 photo.JPG",
            "the server takes no picture files; to classify them: PREDICT --top-k 1 photo.JPG",
        ),
        ("--max-batch 8", "settings are environment variables; write: MAX_BATCH=8 SERVE"),
        (
            "--watch-model --port",
            "settings are environment variables; write: WATCH_MODEL=1 PORT=VALUE SERVE",
        ),
        ("--extras heif", "settings are environment variables; write: EXTRAS=heif SERVE"),
        ("gone.onnx", "settings are environment variables; write: MODEL=gone.onnx SERVE"),
        ("notes", "settings are environment variables; write: MODEL=notes SERVE"),
        ("gone.pt", "export it first: TRAINING export gone.pt --out models/NAME.onnx"),
        ("run", "export it first: TRAINING export run --out models/NAME.onnx"),
        ("mine", "settings are environment variables; write: MODELS=mine SERVE"),
        ("versions", "settings are environment variables; write: MODELS=versions SERVE"),
        ("mine/a.onnx mine/b.onnx", "settings are environment variables; write: MODELS=mine SERVE"),
        ("photo.JPG", "the server takes no picture files; to classify them: PREDICT photo.JPG"),
        ("photos", "the server takes no picture files; to classify them: PREDICT photos"),
        ("predict a.png", "the server takes no picture files; to classify them: PREDICT a.png"),
        ("predict", "the server takes no picture files; to classify them: PREDICT"),
        ("--reload", "there is no option --reload; the settings are environment variables: SERVE --help"),
        ("start", "there is no command or file 'start'; see SERVE --help"),
    ],
)
def test_error_suggests_the_right_command(
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    typed: str,
    serve: str,
    predict: str,
    arguments: str,
    line: str,
) -> None:
    monkeypatch.setenv("ALEXNET_COMMAND", typed)
    assert explain(arguments.split()) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    training = serve.replace("/serve", "/training") if typed else "scripts/training"
    for word, command in {"SERVE": serve, "PREDICT": predict, "TRAINING": training}.items():
        line = line.replace(word, command)
    assert captured.err == f"error: {line}\n"


def test_values_are_quoted_for_the_shell(capsys: pytest.CaptureFixture[str]) -> None:
    assert explain(["--model", "my model.onnx"]) == 2
    assert "write: MODEL='my model.onnx' " in capsys.readouterr().err


def run(*arguments: str) -> "subprocess.CompletedProcess[str]":
    """Run with the standard library only: usage errors must not need installed packages."""
    command = [sys.executable, "-S", "-m", "service", *arguments]
    return subprocess.run(command, cwd=ROOT, env=environ(), capture_output=True, text=True, check=False)


@pytest.mark.parametrize(
    "arguments", [["-h"], ["--help"], ["help"], ["serve", "--help"], ["--port", "1", "-h"]]
)
def test_help(arguments: list[str]) -> None:
    done = run(*arguments)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("usage: [NAME=VALUE ...] python -m service\n")
    assert "environment variables" in done.stdout
    assert "python -m service predict photo.jpg" in done.stdout
    names = [line.strip() for line in done.stdout.split("settings:\n")[1].splitlines()]
    assert {name.upper() for name in Settings.model_fields} <= set(names)


def test_missing_packages_name_the_installing_script() -> None:
    done = run()
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "error: uvicorn is not installed; scripts/serve installs what is needed\n"
    assert "; scripts/predict installs what is needed" in run("predict", "a.jpg").stderr


def test_arguments_after_serve_are_refused() -> None:
    for arguments in (["--port", "9000"], ["serve", "--port", "9000"]):
        done = run(*arguments)
        assert (done.returncode, done.stdout) == (2, "")
        assert done.stderr.endswith("write: PORT=9000 python -m service\n")
    assert "to classify them" in run("serve", "predict", "a.jpg").stderr
    assert os.linesep not in run("start").stderr.strip()
