"""A real server process on a free port of the loopback, and what it says of itself."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
from prometheus_client.parser import text_string_to_metric_families

from tests.support.checkout import ROOT

CLASSES = ("anemone", "bluebell", "crocus", "daisy", "elder", "foxglove", "gorse")
COMMAND = [sys.executable, "-m", "service"]


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


def environ(**settings: object) -> dict[str, str]:
    kept = {k: v for k, v in os.environ.items() if k not in {"HOST", "PORT", "DEVICE", "MODEL"}}
    kept |= {"PYTHONPATH": str(ROOT), "PORT": "0", "DEVICE": "cpu"}
    return kept | {key.upper(): str(value) for key, value in settings.items()}


@contextmanager
def serving(log: Path, model: Path | None, **settings: object) -> Iterator[Server]:
    """Of one model file, or with None of the folder among the settings."""
    with (
        log.open("w") as errors,
        subprocess.Popen(
            COMMAND,
            env=environ(**{"model": model or ""} | settings),
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
        ) as process,
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


def metrics(server: Server) -> dict[str, float]:
    """`name{label=value,...}` -> value, by Prometheus' own parser."""
    answer = server.client.get("/metrics")
    assert answer.headers["content-type"].startswith("text/plain; version=")
    return {
        sample.name + "".join(f",{k}={v}" for k, v in sorted(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(answer.text)
        for sample in family.samples
    }


def refused(**settings: object) -> tuple[int, str]:
    """-> exit code and the one line on stderr of a service that does not start."""
    done = subprocess.run(
        COMMAND,
        env=environ(**settings),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1
    return done.returncode, done.stderr
