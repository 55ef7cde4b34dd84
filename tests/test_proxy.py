"""Test docker/haproxy.cfg in a real HAProxy in front of replicas that fail in different ways."""

import json
import os
import resource
import shutil
import socket
import subprocess
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx
import pytest

from benchmarks.support.proxy import proxy
from tests.support.checkout import ROOT, free_port, wait_until_healthy
from tests.support.eventually import eventually
from tests.support.serving.server import COMMAND, environ

MAX_CONNECTIONS_PER_ADDRESS = 2000

pytestmark = pytest.mark.timeout(60)


@pytest.fixture(autouse=True)
def haproxy() -> None:
    if not shutil.which("haproxy"):
        assert not os.environ.get("CI"), "CI installs haproxy"
        pytest.skip("haproxy is not installed; Debian's package haproxy has it")


class Replica(BaseHTTPRequestHandler):
    """Is healthy, and answers a POST with the size of its body."""

    protocol_version = "HTTP/1.1"
    paths: list[str]

    def do_GET(self) -> None:
        self.answer(b"ok")

    def do_POST(self) -> None:
        self.paths.append(self.path)
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.answer(b"%d" % len(body))

    def answer(self, body: bytes) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def handle(self) -> None:
        with suppress(ConnectionResetError):  # health checks of HAProxy end so
            super().handle()

    def log_request(self, code: int | str = "-", size: int | str = "-") -> None:
        pass


class CrashingReplica(Replica):
    """Closes the connection in the middle of a POST."""

    def do_POST(self) -> None:
        self.paths.append(self.path)
        self.close_connection = True


@contextmanager
def replica(kind: type[Replica], paths: list[str]) -> Iterator[ThreadingHTTPServer]:
    """Run a replica that appends the path of each POST to `paths`."""
    with ThreadingHTTPServer(("127.0.0.1", 0), type("One", (kind,), {"paths": paths})) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


def address(server: ThreadingHTTPServer) -> str:
    return f"http://127.0.0.1:{server.server_port}"


def connected(to: str, source: str, count: int) -> list[socket.socket]:
    host, _, port = to.removeprefix("http://").partition(":")
    return [socket.create_connection((host, int(port)), 30, (source, 0)) for _ in range(count)]


def logged(file: Path) -> list[dict[str, str]]:
    """Return the log line of each request; other messages of HAProxy are not JSON."""
    lines = file.read_text().splitlines(keepends=True)
    return [json.loads(line) for line in lines if line.startswith("{") and line.endswith("\n")]


def test_request_that_crashes_a_replica_is_not_retried() -> None:
    paths: list[str] = []
    with ExitStack() as stack:
        replicas = [stack.enter_context(replica(CrashingReplica, paths)) for _ in range(3)]
        at = stack.enter_context(proxy(*map(address, replicas)))
        answer = httpx.post(f"{at}/predict", content=bytes(1000), timeout=30)
        assert (answer.status_code, answer.json()["code"]) == (502, "not_ready")
        assert answer.headers["content-type"] == "application/problem+json"
        assert paths == ["/predict"]


def test_request_to_a_missing_replica_is_retried_on_another(tmp_path: Path) -> None:
    paths: list[str] = []
    with (tmp_path / "log").open("w") as log, ExitStack() as stack:
        first, second = (stack.enter_context(replica(Replica, paths)) for _ in range(2))
        at = stack.enter_context(proxy(address(first), address(second), log=log))
        first.shutdown()
        first.server_close()
        answers = [httpx.post(f"{at}/predict", content=bytes(9), timeout=30) for _ in range(4)]
        assert [answer.text for answer in answers] == ["9"] * 4
        assert len(paths) == 4
        eventually(lambda: any(line["retries"] != "0" for line in logged(tmp_path / "log")))


@pytest.mark.parametrize(("workers", "status"), [("1", 429), ("auto", 200)])
def test_excess_requests_are_refused_where_the_number_of_workers_is_known(
    monkeypatch: pytest.MonkeyPatch, workers: str, status: int
) -> None:
    monkeypatch.setenv("MAX_QUEUE", "1")
    monkeypatch.setenv("WORKERS", workers)
    paths: list[str] = []
    released = threading.Event()

    class WaitingReplica(Replica):
        def answer(self, body: bytes) -> None:
            if self.command == "POST":
                released.wait(30)
            super().answer(body)

    with (
        replica(WaitingReplica, paths) as server,
        proxy(address(server)) as at,
        ThreadPoolExecutor(2) as pool,
    ):
        first = pool.submit(httpx.post, f"{at}/predict", content=b"1", timeout=30)
        eventually(lambda: len(paths) == 1)
        second = pool.submit(httpx.post, f"{at}/predict", content=b"2", timeout=30)
        eventually(lambda: second.done() or len(paths) == 2)
        released.set()
        assert (first.result().status_code, second.result().status_code) == (200, status)


def test_body_larger_than_the_buffer_arrives(tmp_path: Path) -> None:
    with replica(Replica, []) as server, proxy(address(server)) as at:
        assert httpx.post(f"{at}/predict", content=bytes(3_000_000), timeout=30).text == "3000000"


def test_connections_per_address_are_limited() -> None:
    """Connections without a request are closed within seconds."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 10_000), hard))
    with ExitStack() as stack:
        stack.callback(resource.setrlimit, resource.RLIMIT_NOFILE, (soft, hard))
        server = stack.enter_context(replica(Replica, []))
        at = stack.enter_context(proxy(address(server)))
        taken = connected(at, "127.0.0.2", MAX_CONNECTIONS_PER_ADDRESS)
        for connection in taken:
            stack.enter_context(connection)
            connection.sendall(b"G")
        with suppress(ConnectionResetError):
            refused = stack.enter_context(connected(at, "127.0.0.2", 1)[0])
            assert refused.recv(1) == b"", "one too many"
        taken[0].setblocking(False)
        with pytest.raises(BlockingIOError):  # the earlier connections stay open
            taken[0].recv(1)
        assert httpx.get(f"{at}/health/live", timeout=30).status_code == 200
        taken[0].settimeout(20)
        assert taken[0].recv(100).startswith(b"HTTP/1.1 408 ")


def test_proxy_and_service_log_the_same_request_id(tmp_path: Path) -> None:
    """Both logs have the response's id and the real client address, and no health checks."""
    port, trace = free_port(), "0af7651916cd43dd8448eb211c80319c"
    sent_headers: list[dict[str, str]] = [
        {"X-Request-ID": "mine-1"},
        {"traceparent": f"00-{trace}-b7ad6b7169203331-01"},
        {"X-Request-ID": 'bad " one'},
        {},
    ]
    forged = {"X-Forwarded-For": "192.0.2.1", "Forwarded": "for=192.0.2.1"}
    settings = {
        "model": ROOT / "models/flowers17.onnx",
        "port": port,
        "log_format": "json",
        "trusted_proxies": "127.0.0.1",
    }
    with (
        (tmp_path / "service").open("w") as theirs,
        subprocess.Popen(COMMAND, env=environ(**settings), stdout=theirs) as process,
        (tmp_path / "proxy").open("w") as ours,
    ):
        try:
            wait_until_healthy(process, port)
            with proxy(f"http://127.0.0.1:{port}", log=ours) as at:
                transport = httpx.HTTPTransport(local_address="127.0.0.9")
                with httpx.Client(base_url=at, transport=transport, timeout=30) as client:
                    for path in ("/health", "/health/ready", "/v2/health/live"):
                        assert client.get(path).status_code == 200
                    answers = [client.get("/models", headers=forged | more) for more in sent_headers]
                ids = [answer.headers["X-Request-ID"] for answer in answers]
                eventually(lambda: len(logged(tmp_path / "proxy")) >= len(sent_headers))
        finally:
            process.terminate()
    assert ids[:2] == ["mine-1", trace]
    assert len(set(ids)) == len(sent_headers)
    for file in ("service", "proxy"):
        lines = [line for line in logged(tmp_path / file) if "path" in line]
        assert [line["request_id"] for line in lines] == ids
        assert {line["client"] for line in lines} == {"127.0.0.9"}


def test_error_of_the_proxy_has_a_request_id(tmp_path: Path) -> None:
    with replica(CrashingReplica, []) as server, (tmp_path / "log").open("w") as log:
        with proxy(address(server), log=log) as at:
            answer = httpx.post(f"{at}/predict", content=b"x", headers={"X-Request-ID": "mine"}, timeout=30)
            assert (answer.status_code, answer.headers["X-Request-ID"]) == (502, "mine")
            eventually(lambda: logged(tmp_path / "log"))
        assert logged(tmp_path / "log")[0]["request_id"] == "mine"


@pytest.mark.parametrize("path", ["/" + "a" * 60_000, "/" + '"' * 20_000, "/%0a%1b", "/a?key=secret"])
def test_every_log_line_is_json(tmp_path: Path, path: str) -> None:
    with (
        replica(Replica, []) as server,
        (tmp_path / "log").open("w") as log,
        proxy(address(server), log=log) as at,
    ):
        (connection,) = connected(at, "127.0.0.1", 1)
        with connection:
            connection.sendall(f"GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
            while connection.recv(65536):
                pass
        logged_path = path.partition("?")[0][:1000]
        eventually(lambda: logged_path in [line["path"] for line in logged(tmp_path / "log")])
