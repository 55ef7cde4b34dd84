"""Connections as no good client has them: requests sent ahead, readers that do not read, crowds, heads that
are in time although nothing ran.
"""

import json
import os
import resource
import signal
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import httpx
import pytest

from tests.support.eventually import eventually
from tests.support.serving.bystander import IMAGE, LIMITS, witnessed
from tests.support.serving.images import encoded, noise
from tests.support.serving.raw_http import (
    GET,
    LIVE,
    POST,
    answer_on,
    answers,
    connect,
    descriptors,
    exchange,
    request,
    resident,
    rest_of,
    send,
)
from tests.support.serving.responses import check
from tests.support.serving.server import CLASSES, Server, serving


@pytest.fixture(scope="module")
def server(model_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with witnessed(tmp_path_factory.mktemp("log") / "stderr", model_file, **LIMITS) as running:
        yield running


def test_a_client_that_does_not_read_is_disconnected(server: Server) -> None:
    """Of 32 answers of a megabyte; the system's own buffers would take one whole."""
    before = descriptors(server)
    with ExitStack() as stack:
        held = [stack.enter_context(connect(server, 4096)) for _ in range(10)]
        for connection in held:
            connection.sendall(request("GET", "/static/swagger-ui-bundle.js", close=False) * 32)
        eventually(lambda: descriptors(server) >= before + 10)  # they are accepted
        eventually(lambda: descriptors(server) <= before + 2)  # and cut off; one or two are the witness's


def test_a_slow_reader_gets_the_whole_response(server: Server) -> None:
    wanted = server.client.get("/static/swagger-ui-bundle.js", headers={"Accept-Encoding": "identity"})
    received = bytearray()
    with connect(server, 65536) as connection:
        connection.sendall(request("GET", "/static/swagger-ui-bundle.js"))
        while part := connection.recv(200_000, socket.MSG_WAITALL):
            received += part
            time.sleep(0.3)
    (answer,) = answers(bytes(received))
    assert answer.content == wanted.content


def test_pipelined_requests_are_answered_in_order(server: Server) -> None:
    images = [encoded(noise(seed)) for seed in range(12)]
    exclusive = [server.client.post("/predict", content=image).json()["predictions"] for image in images]
    assert len({json.dumps(one) for one in exclusive}) == 12, "each image has its own answer"
    ahead = [request("POST", "/predict", image, close=False) for image in images]
    found = exchange(server, b"".join(ahead), request("GET", "/nothing"))
    assert [answer.status_code for answer in found] == [200] * 12 + [404]
    for answer, wanted in zip(found, exclusive, strict=False):
        for got, right in zip(answer.json()["predictions"], wanted, strict=True):
            assert got["label"] == right["label"]
            assert got["probability"] == pytest.approx(right["probability"], abs=1e-5)


@pytest.mark.parametrize(
    ("last", "status"),
    [
        (b"garbage\r\n\r\n", 400),
        (POST + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n", 408),
        (GET + b"A: " + b"b" * 600_000, 431),
        (b"", 200),
    ],
)
def test_pipelined_requests_before_a_bad_one_are_answered(server: Server, last: bytes, status: int) -> None:
    """The good ones are answered first, whatever the next is."""
    found = exchange(server, request("POST", "/predict", IMAGE, close=False) + LIVE * 2 + last)
    assert [answer.status_code for answer in found[:3]] == [200] * 3
    assert found[-1].status_code == status


def test_more_than_32_pipelined_requests_are_refused(server: Server) -> None:
    found = exchange(server, LIVE * 500)
    assert [answer.status_code for answer in found] == [200] * 33 + [400]
    check(found[-1], 400, "invalid_request", "32 requests")


def test_a_hundred_headers_are_taken(server: Server) -> None:
    (answer,) = exchange(server, GET + b"Connection: close\r\n" + b"a:b\r\n" * 98 + b"\r\n")
    assert answer.status_code == 200


def test_headers_of_pipelined_requests_are_bounded_together(server: Server) -> None:
    """Each request may have as many, but all that wait together have MAX_HEADER_BYTES."""
    found = exchange(server, (GET + b"a:b\r\n" * 90 + b"\r\n") * 30)
    assert [answer.status_code for answer in found] == [200] * 7 + [400], "20,000 bytes hold six that wait"
    check(found[-1], 400, "invalid_request", "6 requests wait", "20000 bytes of headers")


def test_idle_connections_are_closed_at_the_connection_limit(model_file: Path, tmp_path: Path) -> None:
    """1,200 connections that say nothing, half of a head or nothing more, past a limit of 100."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(4096, hard)), hard))
    limits = {"max_connections": 100, "header_timeout_s": 300, "keep_alive_timeout_s": 300}
    try:
        with serving(tmp_path / "log", model_file, **limits) as server, ExitStack() as stack:
            right = httpx.post(server.address + "/predict", content=IMAGE).json()["predictions"]
            before, memory = descriptors(server), resident(server)
            for number in range(1200):
                held = stack.enter_context(connect(server))
                send(held, (b"", GET, LIVE)[number % 3])
                if number % 200 == 0:
                    assert httpx.get(server.address + "/health/live", timeout=20).status_code == 200
            found = httpx.post(server.address + "/predict", content=IMAGE, timeout=20).json()
            assert [p["label"] for p in found["predictions"]] == [p["label"] for p in right]
            assert descriptors(server) - before <= 101
            assert resident(server) - memory < 20_000_000
            assert server.log == ""
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_a_connection_is_refused_when_all_others_are_busy(model_file: Path, tmp_path: Path) -> None:
    with serving(tmp_path / "log", model_file, max_connections=3) as server, ExitStack() as stack:
        server.client.close()
        busy = [stack.enter_context(connect(server)) for _ in range(3)]
        for connection in busy:
            connection.sendall(request("POST", "/predict", IMAGE, Expect="100-continue")[:-1])
            assert connection.recv(100).startswith(b"HTTP/1.1 100")
        with connect(server) as one_more:
            (answer,) = answers(rest_of(one_more))
        check(answer, 503, "not_ready", "3 connections")
        busy[0].sendall(IMAGE[-1:])
        (answer,) = answers(rest_of(busy[0]))
        assert answer.json()["predictions"][0]["label"] in CLASSES
        assert httpx.get(server.address + "/health/live").status_code == 200
        found = httpx.get(server.address + "/metrics").text
        assert 'alexnet_requests_total{route="other",status="503"} 1.0' in found


@pytest.mark.parametrize("begun", [0, 20], ids=["idle", "half a head"])
def test_bytes_that_arrive_while_the_process_is_stopped_are_in_time(
    model_file: Path, tmp_path: Path, begun: int
) -> None:
    limits = {"keep_alive_timeout_s": 1, "header_timeout_s": 1}
    with serving(tmp_path / "log", model_file, **limits) as server, connect(server) as connection:
        asked = request("GET", "/health/live", close=False)
        send(connection, asked)
        assert answer_on(connection).status_code == 200
        send(connection, asked[:begun])
        time.sleep(0.2)  # until that is read
        os.kill(server.process.pid, signal.SIGSTOP)
        send(connection, asked[begun:])
        time.sleep(1.2)
        os.kill(server.process.pid, signal.SIGCONT)
        assert answer_on(connection).status_code == 200
        assert rest_of(connection) == b""  # it is closed a second later
