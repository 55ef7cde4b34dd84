"""Test reading bodies: received bytes are counted and limited, announced ones take no capacity.

Slow uplinks are served while they keep the minimum rate.
"""

import base64
import gzip
import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest

from service.errors import InvalidRequest
from service.http.body.json_fields import MAX_JSON_STRINGS, read_json
from service.http.body.read import MIN_RATE
from tests.support.eventually import eventually
from tests.support.serving.images import plain
from tests.support.serving.raw_http import POST, answer_on, connect, resident
from tests.support.serving.responses import check
from tests.support.serving.server import CLASSES, Server, metrics, serving

CHUNKED = b"Transfer-Encoding: chunked\r\n\r\n1\r\nx\r\n"
IDLE = {
    "a length": POST + b"Content-Length: 50000\r\n\r\nx",
    "chunks": POST + CHUNKED,
    "ten crops": POST.replace(b"/predict", b"/predict?crops=10") + CHUNKED,
    "an explanation": POST.replace(b"/predict", b"/explain") + CHUNKED,
    "tensors": POST.replace(b"/predict", b"/v2/models/tiny/infer") + CHUNKED,
    "compressed": POST.replace(b"/predict", b"/v2/models/tiny/infer")
    + b"Content-Encoding: gzip\r\n"
    + CHUNKED,
}


@pytest.fixture(scope="module")
def small(model_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Serve with capacity for one explanation, or for the bytes of two bodies."""
    limits = {"max_queue": 50, "max_body_bytes": 100_000, "max_queue_bytes": 200_000, "body_timeout_s": 60}
    with serving(tmp_path_factory.mktemp("log") / "stderr", model_file, **limits) as running:
        yield running


@pytest.mark.parametrize("sent", IDLE.values(), ids=IDLE)
def test_bodies_that_do_not_arrive_take_no_capacity(small: Server, sent: bytes) -> None:
    with ExitStack() as stack:
        for _sender in range(60):
            stack.enter_context(connect(small)).sendall(sent)
        for path in ("/predict", "/explain", "/predict?crops=10"):
            assert small.client.post(path, content=plain(1)).status_code == 200
        assert metrics(small)["alexnet_in_flight_images"] == 0


def has_room(server: Server, size: int) -> bool:
    """Return whether a body of `size` bytes would be admitted; it is not sent."""
    with connect(server) as connection:
        connection.sendall(POST + b"Expect: 100-continue\r\nContent-Length: %d\r\n\r\n" % size)
        answer = connection.recv(65_536, socket.MSG_PEEK)
        if not answer.startswith(b"HTTP/1.1 100 "):
            answer = answer_on(connection).content
    assert answer.startswith(b"HTTP/1.1 100 ") or b"200000 is the limit" in answer
    return answer.startswith(b"HTTP/1.1 100 ")


def test_received_bytes_count_until_their_request_ends(small: Server) -> None:
    sent = POST + b"Content-Length: 99000\r\n\r\n" + bytes(98_000)
    with connect(small) as first, connect(small) as second:
        first.sendall(sent)
        second.sendall(sent)
        eventually(lambda: not has_room(small, 5000))  # until both have been read
    eventually(lambda: has_room(small, 100_000))


def test_bodies_beyond_the_capacity_are_refused_while_they_arrive(small: Server) -> None:
    """Each of the three announced bodies fits; together they do not."""
    with ExitStack() as stack:
        senders = [stack.enter_context(connect(small)) for _ in range(3)]
        for sender in senders:
            sender.sendall(POST + b"Content-Length: 99000\r\n\r\n")
        for sender in senders:
            sender.sendall(bytes(99_000))
        answers = sorted(answer_on(sender).status_code for sender in senders)
        assert set(answers) <= {415, 429}, "they are no images"
        assert 415 in answers


def test_a_slow_uplink_above_the_minimum_rate_is_served(model_file: Path, tmp_path: Path) -> None:
    """It takes longer than BODY_TIMEOUT_S, above MIN_RATE, and no pause is that long."""
    body = plain(1) + bytes(4 * MIN_RATE * 2)
    with serving(tmp_path / "log", model_file, body_timeout_s=2) as server, connect(server) as connection:
        connection.sendall(POST + b"Content-Length: %d\r\n\r\n" % len(body))
        started_at = time.monotonic()
        for number in range(4):
            connection.sendall(body[number * len(body) // 4 : (number + 1) * len(body) // 4])
            time.sleep(0.7)  # the uplink
        assert time.monotonic() - started_at > 2
        answer = answer_on(connection)
        assert answer.json()["predictions"][0]["label"] in CLASSES


def test_a_body_that_stalls_times_out_whatever_has_arrived(model_file: Path, tmp_path: Path) -> None:
    """Its average rate would be sufficient for another two minutes."""
    with serving(tmp_path / "log", model_file, body_timeout_s=1) as server, connect(server) as connection:
        connection.sendall(POST + b"Content-Length: 2000001\r\n\r\n" + bytes(2_000_000))
        check(answer_on(connection), 408, "timeout", "1 s", str(MIN_RATE))


JUNK = os.urandom(3_700_000)
HEAVY: dict[str, tuple[str, bytes, dict[str, str]]] = {
    "base64": (
        "/predict",
        b'{"image": "%b"}' % base64.b64encode(JUNK),
        {"Content-Type": "application/json"},
    ),
    "wide text": (
        "/predict",
        ('{"image": "' + "a" * 4_900_000 + '\U0001f600"}').encode(),
        {"Content-Type": "application/json"},
    ),
    "strings": (
        "/predict",
        b'{"images": [' + b",".join(b'"\xe2\x82\xac%d"' % n for n in range(400_000)) + b"]}",
        {"Content-Type": "application/json"},
    ),
    "objects": (
        "/predict",
        b'{"images": [' + b",".join(b'{"a%d":1}' % n for n in range(350_000)) + b"]}",
        {"Content-Type": "application/json"},
    ),
    "lists": (
        "/v2/models/tiny/infer",
        b'{"inputs": [' + b",".join([b"[1.5]"] * 490_000) + b"]}",
        {},
    ),
    "compressed": (
        "/v2/models/tiny/infer",
        gzip.compress(b'{"inputs": "' + b"a" * 4_900_000 + b'"}'),
        {"Content-Encoding": "gzip"},
    ),
}


def peak_memory(server: Server) -> int:
    """Return the peak of resident memory until now, in bytes."""
    status = Path(f"/proc/{server.process.pid}/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) * 1024


@pytest.mark.skipif(
    not Path("/proc/self/clear_refs").exists(), reason="only Linux can reset the peak of memory"
)
@pytest.mark.parametrize(("path", "body", "headers"), HEAVY.values(), ids=HEAVY)
def test_large_bodies_are_parsed_one_at_a_time(
    server: Server, path: str, body: bytes, headers: dict[str, str]
) -> None:
    """Twelve at once need the memory of their bodies, and of parsing one of them."""
    responses: list[Any] = []
    assert server.client.post("/predict", content=plain(1)).status_code == 200
    before = resident(server)
    Path(f"/proc/{server.process.pid}/clear_refs").write_text("5")

    def send() -> None:
        responses.append(httpx.post(server.address + path, content=body, headers=headers, timeout=60))

    threads = [threading.Thread(target=send) for _ in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {answer.status_code for answer in responses} <= {400, 415, 422}
    assert peak_memory(server) - before < 12 * 5_000_000 + 70_000_000
    assert "Traceback" not in server.log


@pytest.mark.parametrize(
    "text",
    [
        b'{"images": [' + b",".join([b'"a"'] * MAX_JSON_STRINGS) + b"]}",
        b"[" + b",".join([b"{}"] * (MAX_JSON_STRINGS + 1)) + b"]",
    ],
    ids=["strings", "objects"],
)
def test_json_of_many_strings_or_objects_is_refused(text: bytes) -> None:
    with pytest.raises(InvalidRequest, match=f"more than {MAX_JSON_STRINGS} strings or objects"):
        read_json(text)


def test_a_lone_surrogate_is_quoted_in_ascii(small: Server) -> None:
    tensor = '{"name": "images", "parameters": {"shared_memory\\ud800": 1}}'
    inputs = f'{{"inputs": [{tensor}]}}'
    answer = small.client.post("/v2/models/tiny/infer", content=inputs)
    assert (answer.status_code, "shared_memory\\ud800" in answer.json()["error"]) == (400, True)
