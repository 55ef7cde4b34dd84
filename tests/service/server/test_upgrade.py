"""Test that upgrades are ignored: the request stays HTTP/1.1, and its body is read as its body."""

from collections.abc import Callable

import pytest

from tests.support.serving.images import plain
from tests.support.serving.raw_http import GET, LIVE, POST, answers, connect, exchange, request, rest_of
from tests.support.serving.responses import check
from tests.support.serving.server import Server

Framed = Callable[[bytes, bytes], bytes]
PICTURE = plain(1)
H2C = b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n"
LAST = request("GET", "/nothing")  # its 404 shows that the requests before it ended at the right byte
UPGRADES = {
    "h2c": H2C,
    "websocket": b"Connection: Upgrade\r\nUpgrade: websocket\r\n",
    "TLS": b"Connection: upgrade\r\nUpgrade: TLS/1.0\r\n",
    "several": b"Connection: keep-alive, Upgrade\r\nUpgrade: h2c, websocket\r\n",
    "twice": b"Upgrade: h2c\r\nUPGRADE: websocket\r\nConnection: keep-alive\r\nConnection: UPGRADE\r\n",
    "not in Connection": b"Upgrade: h2c\r\n",
    "only in Connection": b"Connection: Upgrade\r\n",
}


def sized(body: bytes, upgrade: bytes) -> bytes:
    return POST + upgrade + b"Content-Length: %d\r\n\r\n" % len(body) + body


def chunked(body: bytes, upgrade: bytes) -> bytes:
    head = POST + upgrade + b"Transfer-Encoding: chunked\r\n\r\n"
    return head + b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body)


@pytest.mark.parametrize("upgrade", UPGRADES.values(), ids=UPGRADES)
@pytest.mark.parametrize("framed", [sized, chunked])
def test_a_body_is_read_and_the_connection_stays_open(
    server: Server, framed: Framed, upgrade: bytes
) -> None:
    responses = exchange(server, framed(PICTURE, upgrade) + framed(PICTURE, upgrade), LAST)
    assert [answer.status_code for answer in responses] == [200, 200, 404]


@pytest.mark.parametrize("upgrade", UPGRADES.values(), ids=UPGRADES)
@pytest.mark.parametrize("framed", [sized, chunked])
def test_a_body_is_never_the_next_request(server: Server, framed: Framed, upgrade: bytes) -> None:
    """Otherwise a proxy that shares the connection would give its answer to another client."""
    first, last = exchange(server, framed(LIVE, upgrade) + LAST)
    check(first, 415, "unsupported_image")
    assert last.status_code == 404


@pytest.mark.parametrize("upgrade", UPGRADES.values(), ids=UPGRADES)
def test_a_request_without_a_body_is_followed_by_the_next(server: Server, upgrade: bytes) -> None:
    assert [answer.status_code for answer in exchange(server, GET + upgrade + b"\r\n" + LIVE + LAST)] == [
        200,
        200,
        404,
    ]


def test_requests_in_small_pieces_are_answered_alike(server: Server) -> None:
    sent = sized(PICTURE, H2C) + GET + H2C + b"\r\n" + LAST
    with connect(server) as connection:
        for at in range(0, len(sent), 7):
            connection.sendall(sent[at : at + 7])
        responses = answers(rest_of(connection))
    assert [answer.status_code for answer in responses] == [200, 200, 404]


def test_expect_100_continue_is_answered(server: Server) -> None:
    head, _, body = sized(PICTURE, H2C + b"Expect: 100-continue\r\n").partition(b"\r\n\r\n")
    with connect(server) as connection:
        connection.sendall(head + b"\r\n\r\n")
        assert connection.recv(100) == b"HTTP/1.1 100 Continue\r\n\r\n"
        connection.sendall(body + LAST)
        assert [answer.status_code for answer in answers(rest_of(connection))] == [200, 404]


def test_http_1_0_closes_the_connection(server: Server) -> None:
    (answer,) = exchange(server, sized(PICTURE, H2C).replace(b"HTTP/1.1", b"HTTP/1.0"))
    assert (answer.status_code, answer.headers["connection"]) == (200, "close")


def test_pipelined_upgrades_are_limited(server: Server) -> None:
    responses = exchange(server, (GET + H2C + b"\r\n") * 500)
    assert [answer.status_code for answer in responses] == [200] * 33 + [400]


BAD = {
    "two lengths": POST + H2C + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\nhello",
    "a length and chunks": POST + H2C + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "an unknown encoding": POST + H2C + b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
    "a tunnel": b"CONNECT x:80 HTTP/1.1\r\nHost: x\r\n" + H2C + b"Content-Length: 5\r\n\r\nhello",
    "a tunnel to a path": b"CONNECT /predict HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nhello",
}


@pytest.mark.parametrize("sent", BAD.values(), ids=BAD)
def test_contradictory_requests_close_the_connection(server: Server, sent: bytes) -> None:
    (answer,) = exchange(server, sent + LIVE)
    check(answer, 400, "invalid_request")
    assert answer.headers["connection"] == "close"
