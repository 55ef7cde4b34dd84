"""Test half-closed connections: complete requests are answered, and the connection is closed."""

import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.eventually import eventually
from tests.support.serving.images import plain
from tests.support.serving.raw_http import (
    GET,
    LIVE,
    POST,
    answer_on,
    answers,
    connect,
    descriptors,
    request,
    rest_of,
    send,
    wait_until_in_flight,
)
from tests.support.serving.server import Server, metrics, serving

PREDICT = request("POST", "/predict", plain(1), close=False)
LIMITS = {"keep_alive_timeout_s": 300, "header_timeout_s": 300, "body_timeout_s": 300}


@pytest.fixture(scope="module")
def server(model_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Serve with time limits that no test reaches."""
    with serving(tmp_path_factory.mktemp("log") / "stderr", model_file, **LIMITS) as running:
        yield running


def half_closed(server: Server, sent: bytes) -> list[int]:
    """Send, half-close, and return the statuses of all answers until the server closes."""
    with connect(server) as connection:
        send(connection, sent)
        connection.shutdown(socket.SHUT_WR)
        return [answer.status_code for answer in answers(rest_of(connection))]


WHOLE = {
    "a body": (PREDICT, [200]),
    "chunks": (POST + b"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n", [415]),
    "no body": (LIVE, [200]),
    "an explanation": (request("POST", "/explain", plain(1), close=False), [200]),
    "HTTP/1.0": (b"GET /health/live HTTP/1.0\r\n\r\n", [200]),
    "the last request of a connection": (request("GET", "/health/live"), [200]),
    "several": (PREDICT + LIVE + PREDICT, [200, 200, 200]),
    "many": (LIVE * 30, [200] * 30),
    "a whole request and half a body": (PREDICT + POST + b"Content-Length: 9\r\n\r\nab", [200]),
    "whole requests and half a head": (PREDICT + LIVE + GET, [200, 200]),
}


@pytest.mark.parametrize(("sent", "statuses"), WHOLE.values(), ids=WHOLE)
def test_complete_requests_are_answered(server: Server, sent: bytes, statuses: list[int]) -> None:
    assert half_closed(server, sent) == statuses


PARTS = {
    "nothing": b"",
    "half a head": GET,
    "half a body": POST + b"Content-Length: 9\r\n\r\nab",
    "half a picture": PREDICT[:-9],
    "half a chunk": POST + b"Transfer-Encoding: chunked\r\n\r\n5\r\nhe",
    "no last chunk": POST + b"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n",
}


@pytest.mark.parametrize("sent", PARTS.values(), ids=PARTS)
def test_an_incomplete_request_closes_the_connection(server: Server, sent: bytes) -> None:
    before = metrics(server)["alexnet_images_total"]
    assert half_closed(server, sent) == []
    assert metrics(server)["alexnet_images_total"] == before


def test_a_half_close_after_the_answer_closes_at_once(server: Server) -> None:
    with connect(server) as connection:
        send(connection, LIVE)
        assert answer_on(connection).status_code == 200
        connection.shutdown(socket.SHUT_WR)
        assert rest_of(connection) == b""


def test_no_descriptor_leaks(server: Server) -> None:
    metrics(server)
    before = descriptors(server)
    for sent, _statuses in WHOLE.values():
        with connect(server) as connection:
            send(connection, sent)  # and disconnect at once
    for sent in PARTS.values():
        half_closed(server, sent)
    eventually(lambda: descriptors(server) <= before)


def test_a_late_half_close_cancels_the_request(model_file: Path, tmp_path: Path) -> None:
    """Clients that give up close their connection, which looks the same to the server."""
    with (
        serving(tmp_path / "log", model_file, max_wait_ms=60_000) as server,
        connect(server) as connection,
    ):
        connection.sendall(PREDICT)
        wait_until_in_flight(server)
        time.sleep(2.5)
        connection.shutdown(socket.SHUT_WR)
        assert rest_of(connection) == b""
        wait_until_in_flight(server, 0)
        assert metrics(server)["alexnet_requests_total,route=/predict,status=499"] == 1
