"""Test SIGHUP: it reloads, and stops the server if the terminal of its start has been closed."""

import fcntl
import os
import pty
import signal
import subprocess
import termios
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import httpx
import pytest

from tests.support.checkout import free_port
from tests.support.eventually import eventually
from tests.support.models.small_models import replace_with_version
from tests.support.serving.server import COMMAND, environ

TIMEOUT_S = 60.0


class AtTerminal:
    """A server in a session with its own terminal."""

    def __init__(self, process: subprocess.Popen[bytes], terminal: int, file: Path, port: int) -> None:
        self.process, self.file = process, file
        self._terminal, self._address = terminal, f"http://127.0.0.1:{port}/health"

    def wait_for(self, version: int) -> None:
        """Wait until this version of the model is served."""
        eventually(lambda: self._version() == version)

    def _version(self) -> object:
        assert self.process.poll() is None
        with suppress(httpx.TransportError):
            models = httpx.get(self._address, timeout=TIMEOUT_S).json().get("models", [{}])
            return models[-1].get("version")
        return None

    def close(self) -> None:
        """Close the terminal."""
        os.close(self._terminal)


@contextmanager
def at_terminal(model: Path, folder: Path, *before: str, **settings: object) -> Iterator[AtTerminal]:
    terminal, server_side = pty.openpty()
    port = free_port()
    file = replace_with_version(model, folder / "model.onnx", 1)
    with subprocess.Popen(
        [*before, *COMMAND],
        env=environ(model=file, port=port, threads=1, **settings),
        cwd=folder,  # where nohup writes
        stdin=server_side,
        stdout=server_side,
        stderr=server_side,
        start_new_session=True,
        preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
    ) as process:
        os.close(server_side)
        try:
            yield AtTerminal(process, terminal, file, port)
        finally:
            process.terminate()
            try:
                process.wait(TIMEOUT_S)
            except subprocess.TimeoutExpired:
                process.kill()


@pytest.mark.parametrize("workers", [1, 2])
def test_sighup_reloads_and_a_closed_terminal_stops_the_server(
    model_file: Path, tmp_path: Path, workers: int
) -> None:
    """The reload is as by `docker compose kill -s HUP` to a container with a terminal."""
    with at_terminal(model_file, tmp_path, workers=workers) as server:
        server.wait_for(version=1)
        replace_with_version(model_file, server.file, 2)
        server.process.send_signal(signal.SIGHUP)
        server.wait_for(version=2)
        server.close()
        assert server.process.wait(TIMEOUT_S) == 0


def test_a_terminal_closed_during_the_start_stops_the_server(model_file: Path, tmp_path: Path) -> None:
    with at_terminal(model_file, tmp_path) as server:
        status = Path(f"/proc/{server.process.pid}/status")

        def catches_sighup() -> bool:
            assert server.process.poll() is None
            caught = int(status.read_text().split("SigCgt:")[1].split()[0], 16)
            return bool(caught & 1 << (signal.SIGHUP - 1))

        eventually(catches_sighup)
        server.close()
        assert server.process.wait(TIMEOUT_S) == 0


def test_nohup_outlives_the_terminal_and_reloads(model_file: Path, tmp_path: Path) -> None:
    """The parent forwards the signal to workers, whose terminal has been closed too."""
    with at_terminal(model_file, tmp_path, "nohup", workers=2) as server:
        server.wait_for(version=1)
        server.close()
        replace_with_version(model_file, server.file, 2)
        server.process.send_signal(signal.SIGHUP)
        server.wait_for(version=2)
        server.process.terminate()
        assert server.process.wait(TIMEOUT_S) == 0
