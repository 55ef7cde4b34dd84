"""Run `python -m service predict` as a process."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.support.checkout import ROOT

COMMAND = [sys.executable, "-m", "service", "predict"]


def environ(**settings: object) -> dict[str, str]:
    inherited = {k: v for k, v in os.environ.items() if k not in {"MODEL", "MODELS", "COLUMNS"}}
    return inherited | {"PYTHONPATH": str(ROOT), "DEVICE": "cpu"} | {k: str(v) for k, v in settings.items()}


def predict(
    *arguments: object, cwd: Path | None = None, data: bytes = b"", **settings: object
) -> "subprocess.CompletedProcess[str]":
    done = subprocess.run(
        COMMAND + [str(a) for a in arguments],
        cwd=cwd,
        input=data,
        env=environ(**settings),
        capture_output=True,
        timeout=100,
        check=False,
    )
    out, errors = done.stdout.decode(errors="surrogateescape"), done.stderr.decode()
    assert "Traceback" not in errors, errors
    return subprocess.CompletedProcess(done.args, done.returncode, out, errors)


def records(done: "subprocess.CompletedProcess[str]") -> list[dict[str, Any]]:
    return [json.loads(line) for line in done.stdout.splitlines()]


def refused(done: "subprocess.CompletedProcess[str]") -> tuple[int, str]:
    """Return the exit code and the error line of a command that predicted nothing."""
    assert done.stdout == ""
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1
    return done.returncode, done.stderr
