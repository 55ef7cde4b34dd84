"""Clients that say they will send no more: what they have asked is answered, and nothing else is kept."""

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

ASKED = request("POST", "/predict", plain(1), close=False)
LIMITS = {"keep_alive_timeout_s": 300, "header_timeout_s": 300, "body_timeout_s": 300}


@pytest.fixture(scope="module")
def server(model_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Its limits of time end nothing here."""
    with serving(tmp_path_factory.mktemp("log") / "stderr", model_file, **LIMITS) as running:
        yield running


def half_closed(server: Server, sent: bytes) -> list[int]:
    """-> the statuses of all that is answered until the server closes."""
    with connect(server) as connection:
        send(connection, sent)
        connection.shutdown(socket.SHUT_WR)
        return [answer.status_code for answer in answers(rest_of(connection))]


WHOLE = {
    "a body": (ASKED, [200]),
    "chunks": (POST + b"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n", [415]),
    "no body": (LIVE, [200]),
    "an explanation": (request("POST", "/explain", plain(1), close=False), [200]),
    "HTTP/1.0": (b"GET /health/live HTTP/1.0\r\n\r\n", [200]),
    "the last one of its connection": (request("GET", "/health/live"), [200]),
    "several": (ASKED + LIVE + ASKED, [200, 200, 200]),
    "many": (LIVE * 30, [200] * 30),
    "a whole one and half a body": (ASKED + POST + b"Content-Length: 9\r\n\r\nab", [200]),
    "whole ones and half a head": (ASKED + LIVE + GET, [200, 200]),
}


@pytest.mark.parametrize(("sent", "statuses"), WHOLE.values(), ids=WHOLE)
def test_complete_requests_before_a_half_close_are_answered(
    server: Server, sent: bytes, statuses: list[int]
) -> None:
    assert half_closed(server, sent) == statuses


PARTS = {
    "nothing": b"",
    "half a head": GET,
    "half a body": POST + b"Content-Length: 9\r\n\r\nab",
    "half a picture": ASKED[:-9],
    "half a chunk": POST + b"Transfer-Encoding: chunked\r\n\r\n5\r\nhe",
    "no last chunk": POST + b"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n",
}


@pytest.mark.parametrize("sent", PARTS.values(), ids=PARTS)
def test_a_partial_request_before_a_half_close_is_dropped(server: Server, sent: bytes) -> None:
    before = metrics(server)["alexnet_images_total"]
    assert half_closed(server, sent) == []
    assert metrics(server)["alexnet_images_total"] == before


def test_a_half_close_after_the_response_closes_the_connection(server: Server) -> None:
    with connect(server) as connection:
        send(connection, LIVE)
        assert answer_on(connection).status_code == 200
        connection.shutdown(socket.SHUT_WR)
        assert rest_of(connection) == b""


def test_no_descriptor_is_kept(server: Server) -> None:
    metrics(server)
    before = descriptors(server)
    for sent, _statuses in WHOLE.values():
        with connect(server) as connection:
            send(connection, sent)  # and gone
    for sent in PARTS.values():
        half_closed(server, sent)
    eventually(lambda: descriptors(server) <= before)


def test_a_late_half_close_cancels_the_request(model_file: Path, tmp_path: Path) -> None:
    """Most clients close their connection when they give up, which looks the same from here."""
    with (
        serving(tmp_path / "log", model_file, max_wait_ms=60_000) as server,
        connect(server) as connection,
    ):
        connection.sendall(ASKED)
        wait_until_in_flight(server)
        time.sleep(2.5)
        connection.shutdown(socket.SHUT_WR)
        assert rest_of(connection) == b""
        wait_until_in_flight(server, 0)
        assert metrics(server)["alexnet_requests_total,route=/predict,status=499"] == 1
