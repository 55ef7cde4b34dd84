"""Test the limits of the proxy: too many requests, and slow clients."""

import socket
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPResponse

import httpx
import pytest

from tests.docker.stack import Stack, photograph, top_label
from tests.support.eventually import eventually

pytestmark = [pytest.mark.docker, pytest.mark.timeout(300)]

GET = b"GET /health/live HTTP/1.1\r\nHost: x\r\n"
POST = b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n"


def until_closed(stack: Stack, sent: bytes) -> tuple[int, str, bytes]:
    """Return status and media type of the response, and a byte after it, if any comes."""
    with socket.create_connection(("127.0.0.1", int(stack.settings["PORT"])), timeout=90) as connection:
        connection.sendall(sent)
        answer = HTTPResponse(connection)
        answer.begin()
        answer.read()
        return answer.status, answer.headers["content-type"], connection.recv(1)


def test_proxy_refuses_requests_when_every_replica_is_full(stack: Stack) -> None:
    stack.up(MAX_QUEUE="1")
    body = photograph() + bytes(
        400_000
    )  # more than the proxy buffers; data after the end of a JPEG is ignored
    with socket.create_connection(("127.0.0.1", int(stack.settings["PORT"])), timeout=60) as connection:
        head = b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(body)
        connection.sendall(head + body[:-1])

        def other_request() -> httpx.Response | None:
            response = stack.client.post("/predict", content=photograph())
            return response if response.status_code != 200 else None

        refused = eventually(other_request)  # after the request above has reached the replica
        assert (refused.status_code, refused.headers["retry-after"]) == (429, "1")
        assert refused.headers["content-type"] == "application/problem+json"
        assert (refused.json()["code"], "every replica" in refused.json()["detail"]) == ("overloaded", True)
        assert stack.client.get("/health").status_code == 200
        connection.sendall(body[-1:])
        answer = HTTPResponse(connection)
        answer.begin()
        assert answer.status == 200
    assert top_label(stack.client.post("/predict", content=photograph())) == "red"


def test_proxy_times_out_slow_clients(stack: Stack) -> None:
    stack.up()
    headers_without_end, body_without_end, silence = GET, POST + b"x", GET + b"\r\n"
    large_headers = (GET + b"X: ").ljust(
        262_144, b"x"
    )  # tune.bufsize; more could still be on its way at the response
    with ThreadPoolExecutor(4) as pool:
        sent = (headers_without_end, body_without_end, large_headers, silence)
        slow, half, large, idle = pool.map(lambda data: until_closed(stack, data), sent)
    assert half == (408, "application/problem+json", b"")
    assert (slow[0], large[0]) == (408, 400)
    assert idle == (200, "application/json", b"")
