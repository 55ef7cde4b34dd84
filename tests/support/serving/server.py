"""Run the service as a process on a free loopback port, and read its metrics."""

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
    """A running `python -m service`; `log` is what it has written to stderr so far."""

    def __init__(self, process: subprocess.Popen[str], ready_line: str, log: Path) -> None:
        self.process = process
        self.ready_line = ready_line
        self.address = address = ready_line.split(" on ")[1].split()[0]
        self._log = log
        self.client = httpx.Client(base_url=address, timeout=30)

    @property
    def log(self) -> str:
        return self._log.read_text()


def environ(**settings: object) -> dict[str, str]:
    environment = {k: v for k, v in os.environ.items() if k not in {"HOST", "PORT", "DEVICE", "MODEL"}}
    environment |= {"PYTHONPATH": str(ROOT), "PORT": "0", "DEVICE": "cpu"}
    return environment | {key.upper(): str(value) for key, value in settings.items()}


@contextmanager
def serving(log: Path, model: Path | None, **settings: object) -> Iterator[Server]:
    """Serve one model file, or with None the folder in the settings."""
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
        server = Server(process, line, log)
        try:
            with server.client:
                yield server
        finally:
            if process.poll() is None:
                process.terminate()
            process.wait(20)


def metrics(server: Server) -> dict[str, float]:
    """Return every sample of /metrics, by "name,label=value,...", with Prometheus' own parser."""
    answer = server.client.get("/metrics")
    assert answer.headers["content-type"].startswith("text/plain; version=")
    return {
        sample.name + "".join(f",{k}={v}" for k, v in sorted(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(answer.text)
        for sample in family.samples
    }


def refused(**settings: object) -> tuple[int, str]:
    """Return the exit code and the error line of a service that does not start."""
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
