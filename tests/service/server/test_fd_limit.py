"""Test a low limit of open files: fewer connections are accepted, and requests are still answered."""

import socket
import subprocess
from contextlib import ExitStack
from pathlib import Path

import httpx
import pytest

from tests.support.checkout import free_port, wait_until_healthy
from tests.support.serving.raw_http import ANSWER_TIMEOUT_S
from tests.support.serving.server import COMMAND, environ


def limited(files: int) -> list[str]:
    """Return the command of a server with a limit of open files."""
    return ["bash", "-c", f'ulimit -n {files} && exec "$@"', "-", *COMMAND]


@pytest.mark.parametrize("workers", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_idle_connections_beyond_the_limit_delay_no_request(
    model_file: Path, tmp_path: Path, workers: int
) -> None:
    port, log = free_port(), tmp_path / "log"
    settings = {
        "model": model_file,
        "port": port,
        "workers": workers,
        "threads": 1,
        "header_timeout_s": 600,
    }
    with (
        log.open("w") as errors,
        subprocess.Popen(limited(200), env=environ(**settings), stderr=errors) as process,
        ExitStack() as stack,
    ):
        stack.callback(process.terminate)
        wait_until_healthy(process, port)
        for _idle in range(300 * workers):
            stack.enter_context(socket.create_connection(("127.0.0.1", port), ANSWER_TIMEOUT_S))
        for _request in range(5):
            answer = httpx.get(f"http://127.0.0.1:{port}/health/live", timeout=ANSWER_TIMEOUT_S)
            assert answer.status_code == 200
    assert process.returncode == 0
    assert log.read_text().count("MAX_CONNECTIONS is 1000, reduced to 72") == 1


def test_a_limit_without_room_for_a_connection_is_an_error(model_file: Path) -> None:
    done = subprocess.run(
        limited(64), env=environ(model=model_file), capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert done.stderr.startswith(
        "error: MAX_CONNECTIONS is 1000: that needs 1128 open files; the limit of 64"
    )
