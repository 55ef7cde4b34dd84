"""alexnet_client: responses come from a real server, retries are tested with a scripted one."""

import asyncio
import hashlib
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest

import service.client
from alexnet_client import AsyncClient, Client, ClientError
from alexnet_client.schemas import PredictResponse, Problem
from tests.support.checkout import ROOT
from tests.support.serving.images import colour, encoded, noise, plain
from tests.support.serving.server import Server, serving

CLIENTS = pytest.mark.parametrize("client_type", [Client, AsyncClient])
ClientType = type[Client] | type[AsyncClient]
Reply = tuple[int, dict[str, str], bytes]  # status, headers, body


def call(
    client_type: ClientType,
    address: str,
    method: str,
    *arguments: Any,
    waits: Any = (),
    query: Any = (),
    **settings: Any,
) -> Any:
    """Call a method of a new client and return its result. Waits are recorded in `waits`, not slept."""
    if client_type is Client:
        with Client(address, **settings) as client:
            client.wait = lambda seconds: waits.append(seconds) if seconds else None
            return getattr(client, method)(*arguments, **dict(query))

    async def main() -> Any:
        async with AsyncClient(address, **settings) as client:

            async def wait(seconds: float) -> None:
                if seconds:
                    waits.append(seconds)

            client.wait = wait
            return await getattr(client, method)(*arguments, **dict(query))

    return asyncio.run(main())


# Against a real server


@CLIENTS
def test_result_matches_http(server: Server, tmp_path: Path, client_type: ClientType) -> None:
    data = encoded(noise(1))
    (tmp_path / "photo.jpg").write_bytes(data)
    expected = server.client.post("/predict?top_k=2", content=data).json()
    for image in (data, tmp_path / "photo.jpg", str(tmp_path / "photo.jpg")):
        answer = call(client_type, server.address, "predict", image, query={"top_k": 2})
        assert answer.model_dump(exclude={"timing_ms"}) | {"timing_ms": expected["timing_ms"]} == expected


@CLIENTS
def test_options_become_query_parameters(server: Server, client_type: ClientType) -> None:
    data = encoded(noise(2, 500, 260))
    single = call(client_type, server.address, "predict", data, query={"model": "tiny", "version": 3})
    ten_crop = call(client_type, server.address, "predict", data, query={"crops": 10})
    assert single.model.name == "tiny"
    assert single.predictions != ten_crop.predictions
    with pytest.raises(ClientError) as caught:
        call(client_type, server.address, "predict", data, query={"model": "rose"})
    assert (caught.value.status, caught.value.code) == (404, "not_found")


@CLIENTS
def test_trust_is_typed(trusted: Server, client_type: ClientType) -> None:
    query = {"coverage": 0.9, "unknown_above": 0.9}
    red, bright = call(
        client_type, trusted.address, "predict_all", [colour(200, 0, 0), plain(250)], query=query
    )
    assert (red.known, red.set, bright.known, bright.set) == (True, ["red"], False, [])
    assert bright.unfamiliarity == pytest.approx(250 / 255, abs=1e-6)
    answer = call(client_type, trusted.address, "predict", plain(250), query={"model": "untested"})
    assert (answer.known, answer.unfamiliarity, answer.set) == (None, None, None)
    with pytest.raises(ClientError, match="this model's 40 photographs support"):
        call(client_type, trusted.address, "predict", plain(1), query={"coverage": 0.99})


@CLIENTS
def test_each_image_gets_its_own_result(server: Server, client_type: ClientType) -> None:
    good, other = encoded(noise(3)), encoded(noise(4), "PNG")
    answers = call(client_type, server.address, "predict_all", [good, good[:200], other])
    assert [type(answer) for answer in answers] == [PredictResponse, Problem, PredictResponse]
    assert answers[0].predictions == call(client_type, server.address, "predict", good).predictions
    assert answers[1].code == "invalid_image"
    assert answers[2].image.format == "PNG"
    (exclusive,) = call(client_type, server.address, "predict_all", [b"no image"])
    assert exclusive.code == "unsupported_image"


@CLIENTS
def test_features_of_unit_length(server: Server, client_type: ClientType) -> None:
    data = encoded(noise(5))
    plain = call(client_type, server.address, "embed", data).embedding
    unit = call(client_type, server.address, "embed", data, query={"normalize": True}).embedding
    length = sum(value * value for value in plain) ** 0.5
    assert length != pytest.approx(1, abs=0.01)
    assert unit == pytest.approx([value / length for value in plain], abs=1e-6)


@CLIENTS
def test_explain_a_label(server: Server, client_type: ClientType) -> None:
    answer = call(client_type, server.address, "explain", encoded(noise(6)), query={"label": "daisy"})
    assert answer.label == "daisy"
    values = [value for row in answer.map for value in row]
    assert (min(values) >= 0, max(values) <= 1, min(values) < max(values)) == (True, True, True)


@CLIENTS
def test_health(server: Server, client_type: ClientType) -> None:
    assert call(client_type, server.address, "health").model.name == "tiny"


@CLIENTS
def test_problem_raises_client_error(server: Server, client_type: ClientType) -> None:
    with pytest.raises(ClientError, match="not an image in a known format") as caught:
        call(client_type, server.address, "predict", b"no image")
    error = caught.value
    assert (error.status, error.code, error.detail) == (415, "unsupported_image", str(error))


@CLIENTS
def test_api_key(model_file: Path, tmp_path: Path, client_type: ClientType) -> None:
    keys = tmp_path / "keys"
    keys.write_text(hashlib.sha256(b"secret").hexdigest() + "\n")
    data = encoded(noise(7))
    with serving(tmp_path / "log", model_file, api_keys_file=keys) as locked:
        assert call(client_type, locked.address, "predict", data, key="secret").predictions
        with pytest.raises(ClientError) as caught:
            call(client_type, locked.address, "predict", data)
    assert (caught.value.status, caught.value.code) == (401, "unauthorized")


def test_service_client_re_exports_the_client() -> None:
    assert (service.client.Client, service.client.AsyncClient) == (Client, AsyncClient)
    assert service.client.ClientError is ClientError


def test_service_does_not_import_httpx() -> None:
    code = "import service.__main__, sys; sys.exit('httpx' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0


# Retries, against a scripted server


class ScriptedServer(ThreadingHTTPServer):
    """Sends the replies in order; None closes the connection. `bodies` records the request bodies."""

    def __init__(self, replies: list[Reply | None]) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.replies, self.bodies = iter(replies), list[bytes]()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        assert isinstance(self.server, ScriptedServer)
        self.server.bodies.append(self.rfile.read(int(self.headers["Content-Length"])))
        reply = next(self.server.replies)
        if reply is None:
            self.close_connection = True
            return
        status, headers, body = reply
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_arguments: object) -> None:
        pass


@contextmanager
def scripted(*replies: Reply | None) -> Iterator[tuple[str, list[bytes]]]:
    with ScriptedServer(list(replies)) as httpd:
        thread = threading.Thread(target=httpd.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield f"http://127.0.0.1:{httpd.server_port}", httpd.bodies
        finally:
            httpd.shutdown()
            thread.join()


def refusal(**headers: str) -> Reply:
    body = (
        b'{"type": "about:blank", "title": "Busy", "status": 429, "detail": "full", "code": "overloaded"}'
    )
    return 429, {name.replace("_", "-"): value for name, value in headers.items()}, body


@pytest.fixture(scope="module")
def good(server: Server) -> Reply:
    return 200, {}, server.client.post("/predict", content=encoded(noise(8))).content


@CLIENTS
def test_retry_after_is_honoured(good: Any, client_type: ClientType) -> None:
    waits: list[float] = []
    with scripted(refusal(Retry_After="7"), refusal(Retry_After="3"), good) as (address, bodies):
        answer = call(client_type, address, "predict", b"the image", waits=waits)
    assert answer.image.width == 320
    assert bodies == [b"the image"] * 3
    assert [7 <= waits[0] <= 1.25 * 7, 3 <= waits[1] <= 1.25 * 3, len(waits)] == [True, True, 2]


@CLIENTS
def test_delays_grow_without_retry_after(good: Any, client_type: ClientType) -> None:
    waits: list[float] = []
    proxy: Reply = 503, {}, b"<html>no server is available</html>"
    with scripted(proxy, refusal(), refusal(Retry_After="soon"), good) as (address, _bodies):
        call(client_type, address, "predict", b"x", waits=waits)
    assert [0.2 * 2**n <= wait <= 0.25 * 2**n for n, wait in enumerate(waits)] == [True] * 3


@CLIENTS
def test_broken_connection_is_retried(good: Any, client_type: ClientType) -> None:
    waits: list[float] = []
    with scripted(None, good) as (address, bodies):
        assert call(client_type, address, "predict", b"x", waits=waits).predictions
    assert (len(bodies), len(waits)) == (2, 1)


@CLIENTS
def test_attempts_are_limited_to_five(client_type: ClientType) -> None:
    waits: list[float] = []
    with (
        scripted(*[refusal(Retry_After="1")] * 9) as (address, bodies),
        pytest.raises(ClientError) as caught,
    ):
        call(client_type, address, "predict", b"x", waits=waits)
    assert (caught.value.status, caught.value.code, caught.value.detail) == (429, "overloaded", "full")
    assert (len(bodies), len(waits)) == (5, 4)


@CLIENTS
def test_no_attempt_starts_after_60s(client_type: ClientType) -> None:
    waits: list[float] = []
    with scripted(refusal(Retry_After="61")) as (address, bodies), pytest.raises(ClientError, match="full"):
        call(client_type, address, "predict", b"x", waits=waits)
    assert (len(bodies), waits) == (1, [])


@CLIENTS
@pytest.mark.parametrize("status", [400, 422, 500])
def test_permanent_errors_are_not_retried(client_type: ClientType, status: int) -> None:
    with scripted((status, {"Retry-After": "1"}, b"{}")) as (address, bodies):
        with pytest.raises(
            ClientError, match=f"/predict answered {status}, but not in the format"
        ) as caught:
            call(client_type, address, "predict", b"x", waits=[])
        assert (caught.value.status, caught.value.code, len(bodies)) == (status, "unexpected", 1)


@CLIENTS
def test_response_of_another_server_is_an_error(client_type: ClientType) -> None:
    with scripted((200, {}, b"<html>")) as (address, _bodies), pytest.raises(ClientError) as caught:
        call(client_type, address, "predict", b"x")
    assert (caught.value.status, caught.value.code) == (200, "unexpected")


@CLIENTS
def test_connection_refused_is_no_answer(client_type: ClientType) -> None:
    waits: list[float] = []
    with socket.socket() as silent:  # reserves the port without listening
        silent.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{silent.getsockname()[1]}"
        with pytest.raises(ClientError, match=f"no answer from {address}/predict: .*") as caught:
            call(client_type, address, "predict", b"x", waits=waits)
    assert (caught.value.status, caught.value.code, len(waits)) == (0, "no_answer", 4)


@CLIENTS
def test_timeout_is_not_retried(client_type: ClientType) -> None:
    """The server may still be processing the request."""
    waits: list[float] = []
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"http://127.0.0.1:{silent.getsockname()[1]}"
        with pytest.raises(ClientError) as caught:
            call(client_type, address, "predict", b"x", waits=waits, timeout=httpx.Timeout(30, read=0.1))
    assert (caught.value.code, waits) == ("no_answer", [])
