"""Tests of malformed and slow HTTP on real sockets, while a witness sends ordinary requests.

Each attack is answered with a 4xx or cut off in time. The witness's answers are checked at the end.
"""

import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from tests.support.checkout import ROOT
from tests.support.eventually import eventually
from tests.support.serving.bystander import IMAGE, LIMITS, serving_with_client
from tests.support.serving.images import plain
from tests.support.serving.raw_http import (
    GET,
    LIVE,
    POST,
    answers,
    connect,
    descriptors,
    exchange,
    request,
    rest_of,
    send,
    wait_until_in_flight,
)
from tests.support.serving.responses import check
from tests.support.serving.server import Server, serving


@pytest.fixture(scope="module")
def server(model_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serving_with_client(tmp_path_factory.mktemp("log") / "stderr", model_file, **LIMITS) as running:
        yield running


BAD_REQUESTS = {
    "a length twice": POST + b"Content-Length: 5\r\nContent-Length: 5\r\n\r\nhello",
    "two lengths": POST + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\nhello",
    "a list of lengths": POST + b"Content-Length: 5, 5\r\n\r\nhello",
    "a negative length": POST + b"Content-Length: -5\r\n\r\nhello",
    "a signed length": POST + b"Content-Length: +5\r\n\r\nhello",
    "a length in hex": POST + b"Content-Length: 0x5\r\n\r\nhello",
    "a length of 80 bits": POST + b"Content-Length: 999999999999999999999999\r\n\r\nhello",
    "a length and chunks": POST + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "chunks and a length": POST + b"Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n",
    "two encodings": POST + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n0\r\n\r\n",
    "an unknown encoding": POST + b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
    "a chunk's size is no number": POST + b"Transfer-Encoding: chunked\r\n\r\nzz\r\nhello\r\n0\r\n\r\n",
    "a chunk's size is negative": POST + b"Transfer-Encoding: chunked\r\n\r\n-5\r\nhello\r\n0\r\n\r\n",
    "a chunk's size of 80 bits": POST + b"Transfer-Encoding: chunked\r\n\r\nfffffffffffffffffff\r\nhello",
    "a chunk is longer than its size": POST + b"Transfer-Encoding: chunked\r\n\r\n2\r\nhello\r\n0\r\n\r\n",
    "a folded header": GET + b"A: b\r\n c\r\n\r\n",
    "a space before the colon": GET + b"A : b\r\n\r\n",
    "a control character": GET + b"A: \x01\r\n\r\n",
    "line feeds alone": b"GET /health/live HTTP/1.1\nHost: x\n\n",
    "NUL in the path": b"GET /static/\0 HTTP/1.1\r\nHost: x\r\n\r\n",
    "bytes in the path": b"GET /\xff\xfe HTTP/1.1\r\nHost: x\r\n\r\n",
    "no path": b"GET http://x HTTP/1.1\r\nHost: x\r\n\r\n",
    "a tunnel": b"CONNECT x:80 HTTP/1.1\r\nHost: x\r\n\r\n",
    "HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "TLS": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(100),
}


@pytest.mark.parametrize("sent", BAD_REQUESTS.values(), ids=BAD_REQUESTS)
def test_contradictory_requests_are_400_and_close(server: Server, sent: bytes) -> None:
    (answer,) = exchange(server, sent)
    check(answer, 400, "invalid_request")
    assert answer.headers["connection"] == "close"


ENDLESS = {
    "a path": b"GET /" + b"a" * 600_000,
    "a query": b"GET /?" + b"a=b&" * 150_000,
    "a header": GET + b"A: " + b"b" * 600_000,
    "headers": GET + b"A: b\r\n" * 100_000,
    "headers that come at once": GET + b"A: b\r\n" * 5_000 + b"\r\n",
    "tiny headers": GET + b"a:b\r\n" * 101,
    "tiny headers that end": GET + b"a:b\r\n" * 100 + b"\r\n",
    "tiny trailers": POST + b"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n" + b"a:b\r\n" * 200,
    "line ends": b"\r\n" * 50_000,
    "a chunk's extension": POST + b"Transfer-Encoding: chunked\r\n\r\n5;" + b"x" * 400_000,
    "a trailer": POST + b"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\nA: " + b"b" * 400_000,
    "trailers": POST + b"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n" + b"A: b\r\n" * 100_000,
}


@pytest.mark.parametrize("sent", ENDLESS.values(), ids=ENDLESS)
def test_oversized_heads_are_431(server: Server, sent: bytes) -> None:
    # A reset may overtake the answer; then the request is repeated.
    (answer,) = eventually(lambda: exchange(server, sent))
    check(answer, 431, "too_large", "20000")


SLOW = {
    "a request line": ([b"GET /health"], 408),
    "headers": ([GET, b"A: b\r\n", b"A: b\r\n", b"A: b\r\n"], 408),
    "a second request": ([LIVE, GET], 408),
    "a body": ([POST + b"Content-Length: 100\r\n\r\n", b"x", b"x"], 408),
    "a body in a form": (
        [
            POST + b"Content-Length: 999\r\nContent-Type: multipart/form-data; boundary=b\r\n\r\n",
            b"--b\r\n",
        ],
        408,
    ),
    "chunks": ([POST + b"Transfer-Encoding: chunked\r\n\r\n", b"1\r\nx\r\n", b"1\r\nx\r\n"], 408),
    "a chunk of exabytes": (
        [POST + b"Transfer-Encoding: chunked\r\n\r\n", b"7fffffffffffffff\r\nhello"],
        408,
    ),
    "a command": ([request("POST", "/v2/repository/index", close=False)[:-2] + b"A: b"], 408),
    "nothing at all": ([], None),
    "nothing more": ([LIVE], 200),
    "line ends after a request": ([LIVE, b"\r\n"], 200),
    "a body of a GET": ([GET + b"Content-Length: 100\r\n\r\n", b"x"], 200),
}


def test_requests_that_come_too_slowly_are_408(server: Server) -> None:
    """All at the same time, because what takes long is to wait."""

    def attack(parts: list[bytes]) -> list[httpx.Response]:
        with connect(server) as connection:
            for part in parts:
                send(connection, part)
                time.sleep(0.2)  # the attack itself; each byte is early enough, all together are not
            return answers(rest_of(connection))

    with ThreadPoolExecutor(len(SLOW)) as pool:
        found = dict(zip(SLOW, pool.map(attack, (parts for parts, _status in SLOW.values())), strict=True))
    last = {name: sent[-1].status_code if sent else None for name, sent in found.items()}
    assert last == {name: status for name, (_parts, status) in SLOW.items()}
    for name, (_parts, status) in SLOW.items():
        if status == 408:
            check(found[name][-1], 408, "timeout", "1 s")


@pytest.mark.parametrize("path", ["/predict", "/nothing"])
def test_endless_chunks_are_cut_off(server: Server, path: str) -> None:
    """The body is refused by its size, then read for a while so that the client can read the answer."""
    with connect(server) as connection:
        connection.sendall(
            f"POST {path} HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n".encode()
        )
        chunk = b"10000\r\n" + bytes(65536) + b"\r\n"
        sent = 0
        try:
            while sent < 1_000_000_000:
                connection.sendall(chunk)
                sent += len(chunk)
        except OSError:
            pass
        assert sent < 200_000_000


PATHS = [
    "/static/../settings.py",
    "/static/%2e%2e/settings.py",
    "/static/..%2fsettings.py",
    "/static/%2e%2e%2fsettings.py",
    "/static/..%5csettings.py",
    "/static/%2fetc%2fpasswd",
    "/static//app.js",
    "/static/%00",
    "/static/app.js%00",
    "/static/app.js/",
    "//health/live",
    "/health//live",
    "/%2e/health/live",
    "/models/%2e%2e/filters.png",
    "/models/..%2f..%2fetc/filters.png",
    "/v2/models/..%2f..%2fetc%2fpasswd",
    "/v2/models/%2e%2e",
    "/v2/models/tiny%00",
    "/v2/models/%ff%fe",
    "/v2/models/tiny/versions/..%2f3",
    "/v2/models/tiny/versions/" + "9" * 1000,
    "/v2/models/" + "a" * 15_000,
    "/" + "../" * 5000,
    "/" + "a" * 15_000,
]


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path[:40])
def test_odd_paths_are_404(server: Server, path: str) -> None:
    (answer,) = exchange(server, request("GET", path))
    assert answer.status_code == 404, answer.text
    assert len(answer.content) < 1000, "the path is abbreviated"
    for secret in ("Settings", "root:", "Traceback", str(ROOT)):
        assert secret not in answer.text


@pytest.mark.parametrize("host", ["[", "a]b[:99999", "", "x" * 10_000, "%00", "{", "a b"])
def test_odd_hosts_are_400_or_404(server: Server, host: str) -> None:
    (answer,) = exchange(server, request("GET", "/nothing", Host=host))
    assert answer.status_code in {400, 404}


def test_long_query_and_expect_headers(server: Server) -> None:
    (answer,) = exchange(server, request("POST", "/predict?" + "top_k=1&" * 2000, IMAGE))
    assert answer.status_code == 200
    first, answer = exchange(server, request("POST", "/predict", IMAGE, Expect="100-continue"))
    assert (first.status_code, answer.status_code) == (100, 200)
    old = request("POST", "/predict", IMAGE, Expect="100-continue").replace(b"HTTP/1.1", b"HTTP/1.0")
    assert [answer.status_code for answer in exchange(server, old)] == [200]  # HTTP/1.0 knows no 100
    (answer,) = exchange(server, request("POST", "/predict", IMAGE, Expect="nonsense"))
    assert answer.status_code == 200
    refused = request("POST", "/predict", b"", Expect="100-continue", Content_Length="3000000")
    (answer,) = exchange(server, refused)  # refused before the body is requested
    check(answer, 413, "too_large")


def test_no_descriptor_is_left_after_a_hundred_attacks(model_file: Path, tmp_path: Path) -> None:
    """A hundred different attacks at once leak no descriptor and leave nothing in flight."""
    attacks = [*BAD_REQUESTS.values(), *ENDLESS.values(), *(b"".join(parts) for parts, _ in SLOW.values())]
    with serving(tmp_path / "log", model_file, **LIMITS) as server:
        server.client.post("/predict", content=plain(1))
        before = descriptors(server)
        waiting = [threading.Thread(target=exchange, args=(server, sent)) for sent in attacks * 2]
        for thread in waiting:
            thread.start()
        for thread in waiting:
            thread.join()
        wait_until_in_flight(server, 0)
        eventually(lambda: descriptors(server) <= before)
        assert server.client.post("/predict", content=plain(1)).status_code == 200
