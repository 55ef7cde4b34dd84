"""Test connections of bad clients: pipelining, unread answers, too many connections, late heads."""

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
from tests.support.serving.bystander import IMAGE, LIMITS, serving_with_client
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
    with serving_with_client(tmp_path_factory.mktemp("log") / "stderr", model_file, **LIMITS) as running:
        yield running


def test_clients_that_do_not_read_are_disconnected(server: Server) -> None:
    """Each asks for 32 answers of a megabyte: one alone would fit into the kernel's buffers."""
    before = descriptors(server)
    with ExitStack() as stack:
        held = [stack.enter_context(connect(server, 4096)) for _ in range(10)]
        for connection in held:
            connection.sendall(request("GET", "/static/swagger-ui-bundle.js", close=False) * 32)
        eventually(lambda: descriptors(server) >= before + 10)  # all are accepted
        eventually(
            lambda: descriptors(server) <= before + 2
        )  # all are closed; one or two belong to the bystander


def test_slow_readers_get_the_whole_answer(server: Server) -> None:
    expected = server.client.get("/static/swagger-ui-bundle.js", headers={"Accept-Encoding": "identity"})
    received = bytearray()
    with connect(server, 65536) as connection:
        connection.sendall(request("GET", "/static/swagger-ui-bundle.js"))
        while part := connection.recv(200_000, socket.MSG_WAITALL):
            received += part
            time.sleep(0.3)
    (answer,) = answers(bytes(received))
    assert answer.content == expected.content


def test_pipelined_requests_are_answered_in_order(server: Server) -> None:
    images = [encoded(noise(seed)) for seed in range(12)]
    expected = [server.client.post("/predict", content=image).json()["predictions"] for image in images]
    assert len({json.dumps(predictions) for predictions in expected}) == 12, "all answers differ"
    pipelined = [request("POST", "/predict", image, close=False) for image in images]
    responses = exchange(server, b"".join(pipelined), request("GET", "/nothing"))
    assert [response.status_code for response in responses] == [200] * 12 + [404]
    for response, predictions in zip(responses, expected, strict=False):
        for actual, reference in zip(response.json()["predictions"], predictions, strict=True):
            assert actual["label"] == reference["label"]
            assert actual["probability"] == pytest.approx(reference["probability"], abs=1e-5)


@pytest.mark.parametrize(
    ("last", "status"),
    [
        (b"garbage\r\n\r\n", 400),
        (POST + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n", 408),
        (GET + b"A: " + b"b" * 600_000, 431),
        (b"", 200),
    ],
)
def test_requests_before_a_bad_one_are_answered(server: Server, last: bytes, status: int) -> None:
    """The valid requests are answered first, whatever follows them."""
    responses = exchange(server, request("POST", "/predict", IMAGE, close=False) + LIVE * 2 + last)
    assert [response.status_code for response in responses[:3]] == [200] * 3
    assert responses[-1].status_code == status


def test_pipelining_is_limited_to_32_requests(server: Server) -> None:
    responses = exchange(server, LIVE * 500)
    assert [response.status_code for response in responses] == [200] * 33 + [400]
    check(responses[-1], 400, "invalid_request", "32 requests")


def test_100_headers_are_accepted(server: Server) -> None:
    (answer,) = exchange(server, GET + b"Connection: close\r\n" + b"a:b\r\n" * 98 + b"\r\n")
    assert answer.status_code == 200


def test_headers_of_pipelined_requests_are_limited_in_total(server: Server) -> None:
    """Each request is within the limit, but all that wait share MAX_HEADER_BYTES."""
    responses = exchange(server, (GET + b"a:b\r\n" * 90 + b"\r\n") * 30)
    statuses = [response.status_code for response in responses]
    assert statuses == [200] * 7 + [400], "six waiting requests fit into 20,000 bytes"
    check(responses[-1], 400, "invalid_request", "6 requests already wait", "20000 bytes of headers")


def test_idle_connections_are_closed_for_new_ones(model_file: Path, tmp_path: Path) -> None:
    """Open 1,200 connections with a limit of 100: silent, with half a head, or idle after a request."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(4096, hard)), hard))
    limits = {"max_connections": 100, "header_timeout_s": 300, "keep_alive_timeout_s": 300}
    try:
        with serving(tmp_path / "log", model_file, **limits) as server, ExitStack() as stack:
            expected = httpx.post(server.address + "/predict", content=IMAGE).json()["predictions"]
            before, memory = descriptors(server), resident(server)
            for number in range(1200):
                held = stack.enter_context(connect(server))
                send(held, (b"", GET, LIVE)[number % 3])
                if number % 200 == 0:
                    assert httpx.get(server.address + "/health/live", timeout=20).status_code == 200
            actual = httpx.post(server.address + "/predict", content=IMAGE, timeout=20).json()
            assert [p["label"] for p in actual["predictions"]] == [p["label"] for p in expected]
            assert descriptors(server) - before <= 101
            assert resident(server) - memory < 20_000_000
            assert server.log == ""
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_a_new_connection_gets_503_if_none_is_idle(model_file: Path, tmp_path: Path) -> None:
    with serving(tmp_path / "log", model_file, max_connections=3) as server, ExitStack() as stack:
        server.client.close()
        busy = [stack.enter_context(connect(server)) for _ in range(3)]
        for connection in busy:
            connection.sendall(request("POST", "/predict", IMAGE, Expect="100-continue")[:-1])
            assert connection.recv(100).startswith(b"HTTP/1.1 100")
        with connect(server) as extra:
            (answer,) = answers(rest_of(extra))
        check(answer, 503, "not_ready", "3 connections")
        busy[0].sendall(IMAGE[-1:])
        (answer,) = answers(rest_of(busy[0]))
        assert answer.json()["predictions"][0]["label"] in CLASSES
        assert httpx.get(server.address + "/health/live").status_code == 200
        metrics = httpx.get(server.address + "/metrics").text
        assert 'alexnet_requests_total{route="other",status="503"} 1.0' in metrics


@pytest.mark.parametrize("sent_before", [0, 20], ids=["idle", "half a head"])
def test_a_request_that_arrives_while_the_server_is_suspended_is_not_late(
    model_file: Path, tmp_path: Path, sent_before: int
) -> None:
    limits = {"keep_alive_timeout_s": 1, "header_timeout_s": 1}
    with serving(tmp_path / "log", model_file, **limits) as server, connect(server) as connection:
        live = request("GET", "/health/live", close=False)
        send(connection, live)
        assert answer_on(connection).status_code == 200
        send(connection, live[:sent_before])
        time.sleep(0.2)  # until that has been read
        os.kill(server.process.pid, signal.SIGSTOP)
        send(connection, live[sent_before:])
        time.sleep(1.2)
        os.kill(server.process.pid, signal.SIGCONT)
        assert answer_on(connection).status_code == 200
        assert rest_of(connection) == b""  # it is closed a second later
