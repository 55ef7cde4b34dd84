"""A real server process on a free port of the loopback."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx

ROOT = Path(__file__).parents[2]
CLASSES = ("anemone", "bluebell", "crocus", "daisy", "elder", "foxglove", "gorse")


class Server:
    """A running `python -m service`; `log` is what it has written on stderr."""

    def __init__(self, process: subprocess.Popen[str], address: str, log: Path) -> None:
        self.process = process
        self.address = address
        self._log = log
        self.client = httpx.Client(base_url=address, timeout=30)

    @property
    def log(self) -> str:
        return self._log.read_text()


@contextmanager
def serving(log: Path, model: Path | None, **settings: object) -> Iterator[Server]:
    """Of one model file, or with None of the folder among the settings."""
    environ = {key: value for key, value in os.environ.items() if key not in {"HOST", "PORT", "DEVICE"}}
    environ |= {"MODEL": str(model or ""), "PORT": "0", "DEVICE": "cpu", "PYTHONPATH": str(ROOT)}
    environ |= {key.upper(): str(value) for key, value in settings.items()}
    command = [sys.executable, "-m", "service"]
    with (
        log.open("w") as errors,
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, text=True, env=environ) as process,
    ):
        assert process.stdout is not None
        lines = iter(process.stdout.readline, "")
        line = next((line for line in lines if " on http://" in line), "")
        assert line, log.read_text()
        server = Server(process, line.split(" on ")[1].split()[0], log)
        try:
            with server.client:
                yield server
        finally:
            if process.poll() is None:
                process.terminate()
            process.wait(20)
