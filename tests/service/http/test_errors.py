"""Every error that a client can get from a real server: status, code and format."""

import hashlib
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPResponse
from inspect import iscoroutinefunction
from pathlib import Path
from typing import Any, BinaryIO

import httpx
import pytest
from fastapi import FastAPI
from PIL import Image
from starlette.exceptions import HTTPException

from service.http.error_responses import install_handlers
from service.problems import STATUSES
from tests.support.eventually import eventually
from tests.support.serving.images import PNG_HEADER_OF_10_GIGAPIXELS, encoded, noise, plain
from tests.support.serving.raw_http import held_request, open_request, wait_until_in_flight
from tests.support.serving.responses import check
from tests.support.serving.server import Server, serving


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/nothing", 404, "not_found"),
        ("POST", "/predict//", 404, "not_found"),
        ("GET", "/predict", 405, "method_not_allowed"),
        ("DELETE", "/health", 405, "method_not_allowed"),
        ("GET", "/../../etc/passwd", 404, "not_found"),
    ],
)
def test_routing(server: Server, method: str, path: str, status: int, code: str) -> None:
    response = server.client.request(method, path)
    check(response, status, code)
    if status == 405:
        assert response.headers["allow"]


@pytest.mark.parametrize("top_k", ["0", "-1", "8", "many", "1.5", ""])
def test_top_k_out_of_range(server: Server, top_k: str) -> None:
    response = server.client.post("/predict", params={"top_k": top_k}, content=encoded(noise(1)))
    check(response, 422, "invalid_request", "top_k")


@pytest.mark.parametrize(
    ("request_body", "message"),
    [
        ({"content": b""}, "empty"),
        ({"files": {"file": b""}}, "empty"),
        ({"files": {"picture": b"x"}}, "`file`"),
        ({"data": {"file": "text"}, "files": {"other": b""}}, "`file`"),
        ({"content": b"x", "headers": {"Content-Type": "multipart/form-data"}}, "boundary"),
        (
            {"content": b"--b\r\nx", "headers": {"Content-Type": "multipart/form-data; boundary=b"}},
            "multipart",
        ),
    ],
)
def test_body_without_an_image(server: Server, request_body: dict[str, Any], message: str) -> None:
    check(server.client.post("/predict", **request_body), 422, "invalid_request", message)


@pytest.mark.parametrize("data", [b"hello", b"%PDF-1.7", b"\0" * 100, b"<svg xmlns='x'/>", b"PK\x03\x04"])
def test_unknown_image_signature(server: Server, data: bytes) -> None:
    check(server.client.post("/predict", content=data), 415, "unsupported_image", "JPEG")


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF", "TIFF", "BMP", "AVIF"])
def test_truncated_image(server: Server, kind: str) -> None:
    data = encoded(noise(6), kind)
    check(server.client.post("/predict", content=data[: len(data) // 3]), 422, "invalid_image", kind)


def test_too_many_pixels_is_detected_from_the_header(server: Server) -> None:
    response = server.client.post("/predict", content=PNG_HEADER_OF_10_GIGAPIXELS)
    check(response, 413, "too_large", "100000x100000", "67000000")


@pytest.fixture(scope="module")
def strict(model_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server with small limits (1 image in flight, bodies of 100 kB within 0.5 s) and two API keys."""
    folder = tmp_path_factory.mktemp("strict")
    keys = folder / "keys"
    keys.write_text(
        f"# two keys\n{hashlib.sha256(b'first').hexdigest()}\n{hashlib.sha256(b'second').hexdigest()}\n"
    )
    limits = {"max_queue": 1, "max_body_bytes": 100_000, "body_timeout_s": 0.5, "api_keys_file": keys}
    with serving(folder / "log", model_file, **limits) as running:
        running.client.headers["Authorization"] = "Bearer second"
        yield running


@pytest.mark.parametrize("authorization", ["", "Bearer third", "Bearer", "Basic second", "second"])
def test_missing_or_wrong_key(strict: Server, authorization: str) -> None:
    for response in (
        httpx.get(strict.address + "/models", headers={"Authorization": authorization}),
        httpx.post(strict.address + "/predict", headers={"Authorization": authorization}, content=plain(1)),
    ):
        check(response, 401, "unauthorized")
        assert response.headers["www-authenticate"] == "Bearer"


def test_only_health_works_without_a_key(strict: Server) -> None:
    for path in ("/docs", "/openapi.json", "/nothing", "/models", "/metrics"):
        check(httpx.get(strict.address + path), 401, "unauthorized")


def test_health_needs_no_key_and_both_keys_work(strict: Server) -> None:
    assert httpx.get(strict.address + "/health").status_code == 200
    for key in ("first", "second"):
        response = httpx.get(strict.address + "/models", headers={"Authorization": f"Bearer {key}"})
        assert response.status_code == 200


def test_body_too_large_declared_streamed_or_in_a_form(strict: Server) -> None:
    zeros = b"\0" * 300_000
    for response in (
        strict.client.post("/predict", content=zeros),
        strict.client.post("/predict", content=iter([zeros])),
        strict.client.post("/predict", files={"file": zeros}),
    ):
        check(response, 413, "too_large", "100000 bytes")
    assert strict.client.post("/predict", content=plain(1)).status_code == 200


def test_body_that_does_not_arrive(strict: Server) -> None:
    with open_request(strict) as connection:
        answer = connection.makefile("rb").read().decode()  # to the end: the connection is closed
    assert answer.startswith("HTTP/1.1 408 ")
    assert '"code":"timeout"' in answer
    assert "0.5 s" in answer


def status_of(stream: BinaryIO) -> int:
    """Read one response to its end; return its status."""
    status = int(stream.readline().split()[1])
    length = 0
    while (line := stream.readline().lower()) != b"\r\n":
        if line.startswith(b"content-length:"):
            length = int(line.split()[1])
    stream.read(length)
    return status


def test_connection_with_a_refused_body_is_closed_when_idle(strict: Server) -> None:
    """The response precedes the rest of the body; uvicorn closes the connection after 5 idle seconds."""
    host, port = strict.address.removeprefix("http://").split(":")
    refused = b"POST /predict HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer first\r\n"
    refused += b"Content-Length: 200000\r\n\r\n"
    with (
        socket.create_connection((host, int(port)), timeout=10) as connection,
        connection.makefile("rb") as answers,
    ):
        for _again in range(2):
            connection.sendall(refused)
            assert status_of(answers) == 413
            connection.sendall(bytes(200_000))
        connection.sendall(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n")
        assert status_of(answers) == 200, "the connection can be reused until then"
        connection.sendall(refused)
        assert status_of(answers) == 413
        connection.sendall(bytes(200_000))
        assert answers.read() == b"", "the server closes the connection"


def test_more_images_than_max_queue_is_429(model_file: Path, tmp_path: Path) -> None:
    with (
        serving(tmp_path / "log", model_file, max_queue=1, max_wait_ms=60_000) as full,
        held_request(full),
    ):
        wait_until_in_flight(full)
        response = full.client.post("/predict", content=plain(1))
        check(response, 429, "overloaded")
        assert 1 <= int(response.headers["retry-after"]) <= 60
        assert full.client.get("/health").status_code == 200
        assert (
            'alexnet_requests_total{route="/predict",status="429"} 1.0' in full.client.get("/metrics").text
        )


def test_error_handlers_are_coroutines() -> None:
    """Starlette runs plain functions in threads, which an overload would exhaust."""
    install_handlers(app := FastAPI())
    handlers = {error: app.exception_handlers[error] for error in (*STATUSES, HTTPException)}
    assert [error for error, handler in handlers.items() if not iscoroutinefunction(handler)] == []


def test_more_bytes_than_max_queue_bytes_is_429(model_file: Path, tmp_path: Path) -> None:
    limits = {"max_body_bytes": 100_000, "max_queue_bytes": 100_000, "body_timeout_s": 30}
    with serving(tmp_path / "log", model_file, **limits) as full, open_request(full):

        def refused() -> httpx.Response | None:
            """Return the refusal, once the two bytes of the other request have arrived."""
            response = full.client.post("/predict", content=iter([plain(1)]))
            return None if response.status_code == 200 else response

        response = eventually(refused)
        # A body of unknown length counts as MAX_BODY_BYTES.
        check(response, 429, "overloaded", "100000")
        assert full.client.post("/predict", content=plain(1)).status_code == 200


@pytest.mark.parametrize("sent", [b"hello\r\n\r\n", b"GET / HTTP/9.9\r\n\r\n", b"\x16\x03\x01\0\0\r\n\r\n"])
def test_malformed_http_is_400_and_not_logged(server: Server, sent: bytes) -> None:
    host, port = server.address.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=10) as connection:
        connection.sendall(sent)
        raw = HTTPResponse(connection)
        raw.begin()
        check(
            httpx.Response(raw.status, headers=raw.getheaders(), content=raw.read()), 400, "invalid_request"
        )
        assert connection.recv(1) == b""
    assert "HTTP" not in server.log, "untrusted clients could fill the disk"


def test_body_of_a_refused_request_is_not_read_without_limit(strict: Server) -> None:
    host, port = strict.address.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=10) as connection:
        connection.sendall(b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Length: 9000000000\r\n\r\n")
        raw = HTTPResponse(connection)
        raw.begin()
        assert raw.status == 401
        sent, chunk = 0, bytes(1_000_000)
        while sent < 1_000_000_000:
            try:
                connection.sendall(chunk)
            except OSError:
                break
            sent += len(chunk)
    assert (
        1_000_000 < sent < 200_000_000
    )  # enough for clients that read the response only after sending all


def test_large_pictures_are_decoded_within_memory_limits(model_file: Path, tmp_path: Path) -> None:
    """Decode small files with many pixels: WebP with alpha, which needs the most memory per pixel.

    It takes 16 bytes per pixel, and the memory of its Huffman codes.
    """
    pixels = 32_000_000
    bomb = encoded(Image.new("RGBA", (4000, 2700), (1, 2, 3, 9)), "WEBP", lossless=True)
    assert len(bomb) < 2000
    with serving(tmp_path / "log", model_file, max_pixels=pixels, threads=4) as server:
        assert server.client.post("/predict", content=plain(1)).status_code == 200
        before = peak_memory(server)
        with ThreadPoolExecutor(4) as pool:
            answers = list(pool.map(lambda _: server.client.post("/predict", content=bomb), range(4)))
        assert {answer.status_code for answer in answers} == {200}
        assert peak_memory(server) - before < 9 * pixels
        larger = encoded(Image.new("RGBA", (4000, 3001)), "WEBP", lossless=True)
        answer = server.client.post("/predict", content=larger)
        check(answer, 413, "too_large", "of such WEBP files at most 11")


def peak_memory(server: Server) -> int:
    """Return the peak resident memory of the server process in bytes."""
    status = Path(f"/proc/{server.process.pid}/status").read_text()
    return 1024 * int(status.split("VmHWM:")[1].split()[0])


def test_request_timeout_is_504(model_file: Path, tmp_path: Path) -> None:
    large = encoded(Image.new("RGB", (4000, 4000)), "PNG")
    with serving(tmp_path / "log", model_file, request_timeout_s=0.01) as hasty:
        check(hasty.client.post("/predict", content=large), 504, "deadline", "0.01 s")


def test_unexpected_exception_is_500_and_logged(fragile_model: Path, tmp_path: Path) -> None:
    with serving(tmp_path / "log", fragile_model) as fragile:
        check(fragile.client.post("/predict", content=plain(255)), 500, "internal")
        assert fragile.client.post("/predict", content=plain(0)).status_code == 200
        assert "FloatingPointError" in fragile.log


def test_bad_images_do_not_affect_good_ones(server: Server) -> None:
    good = encoded(noise(7))
    exclusive = server.client.post("/predict", content=good).json()["predictions"]

    def ask(number: int) -> httpx.Response:
        data = [good, good[: len(good) // 2], b"hello", PNG_HEADER_OF_10_GIGAPIXELS][number % 4]
        return server.client.post("/predict", content=data)

    with ThreadPoolExecutor(32) as pool:
        responses = list(pool.map(ask, range(64)))
    assert [r.status_code for r in responses] == [200, 422, 415, 413] * 16
    for response in responses[::4]:
        for actual, expected in zip(response.json()["predictions"], exclusive, strict=True):
            assert actual["label"] == expected["label"]
            assert actual["probability"] == pytest.approx(expected["probability"], abs=1e-5)
