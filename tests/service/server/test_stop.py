"""Test shutdown: requests in flight are answered, and those that outlast the drain get 503."""

import signal
import time
from itertools import cycle
from pathlib import Path

import httpx
import pytest

from tests.support.eventually import eventually
from tests.support.serving.images import plain
from tests.support.serving.raw_http import POST, answer_on, connect, half_sent
from tests.support.serving.responses import check
from tests.support.serving.server import serving


def test_a_signal_right_after_the_start_is_not_lost(model_file: Path, tmp_path: Path) -> None:
    with serving(tmp_path / "log", model_file) as server:
        server.process.terminate()
        assert server.process.wait(20) == 0


@pytest.mark.parametrize("workers", [1, 2])
def test_any_number_of_signals_exits_with_0(model_file: Path, tmp_path: Path, workers: int) -> None:
    """Signals are sent until the process ends, while Python removes its handlers too."""
    with serving(tmp_path / "log", model_file, workers=workers, threads=1) as server:
        for number in cycle((signal.SIGTERM, signal.SIGHUP, signal.SIGINT)):
            if server.process.poll() is not None:
                break
            server.process.send_signal(number)
            time.sleep(0.005)
        assert server.process.returncode == 0
        assert server.log == ""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_requests_in_flight_are_answered_after_a_signal(
    model_file: Path, tmp_path: Path, number: signal.Signals
) -> None:
    data = plain(100)
    with serving(tmp_path / "log", model_file, max_queue=4) as server:
        connections = [connect(server) for _ in range(4)]
        for connection in connections:
            head = POST + b"Expect: 100-continue\r\nContent-Length: %d\r\n\r\n" % len(data)
            connection.sendall(head)
            assert connection.recv(100).startswith(b"HTTP/1.1 100 "), "it is in flight"
        server.process.send_signal(number)
        for connection in connections:
            connection.sendall(data)
            assert connection.makefile("rb").readline() == b"HTTP/1.1 200 OK\r\n"
            connection.close()
        assert server.process.wait(20) == 0
        assert server.log == ""


def test_connections_are_accepted_during_the_drain_delay(model_file: Path, tmp_path: Path) -> None:
    with serving(tmp_path / "log", model_file, drain_delay_s=60) as server:
        server.process.terminate()
        eventually(lambda: server.client.get("/health/ready").status_code != 200)
        check(server.client.get("/health/ready"), 503, "not_ready", "stopping")
        assert httpx.get(server.address + "/health/live").status_code == 200
        assert httpx.post(server.address + "/predict", content=plain(100)).status_code == 200
        server.process.send_signal(signal.SIGINT)  # a second signal ends the delay
        assert server.process.wait(30) == 0


def test_requests_that_outlast_the_drain_get_503(model_file: Path, tmp_path: Path) -> None:
    with (
        serving(tmp_path / "log", model_file, drain_timeout_s=1) as server,
        half_sent(server, plain(100)) as connection,
    ):
        server.process.terminate()
        check(answer_on(connection), 503, "not_ready", "send the request again")
        assert server.process.wait(10) == 0


def test_an_idle_connection_does_not_delay_the_stop(model_file: Path, tmp_path: Path) -> None:
    """It is closed after a short grace period."""
    with serving(tmp_path / "log", model_file, keep_alive_timeout_s=60) as server:
        assert server.client.get("/health/live").status_code == 200
        server.process.terminate()
        assert server.process.wait(15) == 0
