"""Test CORS: pages from listed origins may send requests and read every answer, errors too."""

import hashlib
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from service.http.access.origins import EXPOSED
from service.parsers import parse_origins
from service.settings import Settings, SettingsError
from tests.support.serving.images import plain
from tests.support.serving.raw_http import GET, POST, exchange, request
from tests.support.serving.responses import check
from tests.support.serving.server import Server, refused, serving

ORIGIN = "https://example.org"
ALLOWED = "access-control-allow-origin"
LIMITS = {"max_body_bytes": 100_000, "max_header_bytes": 20_000, "max_queue": 1, "body_timeout_s": 0.5}


@pytest.fixture(scope="module")
def listed(fragile_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Serve two origins with a model that fails on bright images; an API key is required."""
    folder = tmp_path_factory.mktemp("cors")
    (folder / "keys").write_text(hashlib.sha256(b"key").hexdigest())
    settings = {"cors_origins": f"https://example.com, {ORIGIN}", "api_keys_file": folder / "keys"}
    with serving(folder / "log", fragile_model, **LIMITS, **settings) as running:
        running.client.headers.update({"Origin": ORIGIN, "Authorization": "Bearer key"})
        yield running


def check_readable(answer: httpx.Response, origin: str = ORIGIN) -> None:
    """Check that a page from this origin may read the answer."""
    assert answer.headers[ALLOWED] == origin
    assert answer.headers["access-control-expose-headers"] == ", ".join(EXPOSED)
    assert {"Retry-After", "X-Request-ID", "X-Label", "Server-Timing"} <= set(EXPOSED)
    assert "Origin" in answer.headers["vary"]


REQUESTS: dict[str, tuple[int, str, str, dict[str, object]]] = {
    "an answer": (200, "POST", "/predict", {"content": plain(1)}),
    "no host": (400, "GET", "/health", {"headers": {"Host": "a b"}}),
    "no key": (401, "POST", "/predict", {"headers": {"Authorization": ""}}),
    "no path": (404, "GET", "/nothing", {}),
    "no method": (405, "GET", "/predict", {}),
    "too large": (413, "POST", "/predict", {"content": bytes(100_001)}),
    "no image": (415, "POST", "/predict", {"content": b"x"}),
    "a wrong parameter": (422, "POST", "/predict?topk=1", {"content": plain(1)}),
    "a bug": (500, "POST", "/predict", {"content": plain(255)}),
    "Open Inference Protocol": (404, "GET", "/v2/models/nothing", {}),
}


@pytest.mark.parametrize(("status", "method", "path", "arguments"), REQUESTS.values(), ids=REQUESTS)
def test_every_answer_is_readable_by_a_listed_origin(
    listed: Server, status: int, method: str, path: str, arguments: dict[str, object]
) -> None:
    answer = listed.client.request(method, path, **arguments)  # type: ignore[arg-type]
    assert answer.status_code == status
    assert "x-request-id" in answer.headers
    check_readable(answer)
    headers = {**(arguments.get("headers") or {}), "Origin": "https://elsewhere.org"}  # type: ignore[dict-item]
    other = arguments | {"headers": headers}
    assert ALLOWED not in listed.client.request(method, path, **other).headers  # type: ignore[arg-type]


ORIGIN_LINE = f"Origin: {ORIGIN}\r\n".encode()
BROKEN = {
    "a bad chunk": (POST + ORIGIN_LINE + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n", 400),
    "a late body": (POST + ORIGIN_LINE + b"Authorization: Bearer key\r\nContent-Length: 9\r\n\r\nx", 408),
    "many headers": (GET + ORIGIN_LINE + b"a:b\r\n" * 200, 431),
}


@pytest.mark.parametrize(("sent", "status"), BROKEN.values(), ids=BROKEN)
def test_answers_outside_of_routes_are_readable_too(listed: Server, sent: bytes, status: int) -> None:
    (answer,) = exchange(listed, sent)
    assert answer.status_code == status
    check_readable(answer)
    (answer,) = exchange(listed, sent.replace(b"example.org", b"elsewhere.org"))
    assert ALLOWED not in answer.headers


def test_an_error_for_too_many_images_is_readable(listed: Server) -> None:
    answer = listed.client.post("/predict?crops=10", content=plain(1))
    check(answer, 422, "invalid_request", "10 images")
    check_readable(answer)


@pytest.mark.parametrize("path", ["/predict", "/predict/", "/v2/models/fragile/infer", "/nothing"])
def test_preflight_requests_need_no_key(listed: Server, path: str) -> None:
    preflight = {
        "Origin": ORIGIN,
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": "authorization,content-type,x-request-timeout-ms",
    }
    answer = httpx.options(listed.address + path, headers=preflight)
    assert (answer.status_code, answer.headers[ALLOWED]) == (200, ORIGIN)
    assert "authorization" in answer.headers["access-control-allow-headers"]
    assert "POST" in answer.headers["access-control-allow-methods"]
    wrong = httpx.options(listed.address + path, headers=preflight | {"Origin": "https://elsewhere.org"})
    assert ALLOWED not in wrong.headers
    assert httpx.options(listed.address + "/predict", headers={"Origin": ORIGIN}).status_code == 401


def test_an_asterisk_allows_all_origins(model_file: Path, tmp_path: Path) -> None:
    with serving(tmp_path / "log", model_file, cors_origins="*") as server:
        for answer in (
            server.client.get("/health", headers={"Origin": "https://a.b"}),
            *exchange(server, request("GET", "/health", Origin="null")),
            *exchange(server, POST + ORIGIN_LINE + b"Content-Length: x\r\n\r\n"),
        ):
            check_readable(answer, "*")


def test_without_cors_origins_no_origin_is_allowed(server: Server) -> None:
    answer = server.client.post("/predict", headers={"Origin": ORIGIN}, content=plain(1))
    assert (answer.status_code, ALLOWED in answer.headers) == (200, False)
    (answer,) = exchange(server, POST + ORIGIN_LINE + b"Content-Length: x\r\n\r\n")
    assert ALLOWED not in answer.headers


LISTS = {
    "": (),
    " , ": (),
    "*": ("*",),
    "null": ("null",),
    "https://a.b, http://localhost:3000,": ("https://a.b", "http://localhost:3000"),
    "http://[::1]:8000": ("http://[::1]:8000",),
    "chrome-extension://abcdef": ("chrome-extension://abcdef",),
    "capacitor://localhost": ("capacitor://localhost",),
    "http://my_host:8080": ("http://my_host:8080",),
}
NEVER = {
    "https://a.b/": "write https://a.b",
    "https://a.b/app": "write https://a.b",
    "https://a.b?x": "write https://a.b",
    "a.b": "write https://a.b or http://a.b",
    "localhost:3000": "http://localhost:3000",
    "//a.b": "no scheme",
    "https://A.b": "write https://a.b",
    "HTTPS://a.b": "write https://a.b",
    "https://a.b:443": "write https://a.b",
    "http://a.b:80": "write http://a.b",
    "https://*.a.b": "list each host",
    "https://a.b:*": "list each host",
    "https://bücher.example": "xn--",
    "https://user@a.b": "scheme://host",
    "https://a.b https://c.d": "write https://a.b https:",
    "https://a.b;https://c.d": "write https://a.b;https:",
    "https://": "scheme://host",
    "https://a.b:99999": "scheme://host",
    "'https://a.b'": "scheme://host",
}


@pytest.mark.parametrize(("text", "origins"), LISTS.items())
def test_valid_lists_of_origins(text: str, origins: tuple[str, ...]) -> None:
    assert parse_origins(text) == origins
    Settings.from_environ({"CORS_ORIGINS": text})


@pytest.mark.parametrize(("origin", "remedy"), NEVER.items())
def test_origins_that_no_browser_sends_are_refused(origin: str, remedy: str) -> None:
    with pytest.raises(SettingsError) as raised:
        Settings.from_environ({"CORS_ORIGINS": f"https://valid.example, {origin}"})
    message = str(raised.value)
    assert message.startswith(f"CORS_ORIGINS has {origin!r}, which no browser sends as an origin")
    assert remedy in message


def test_an_asterisk_with_other_origins_is_refused() -> None:
    with pytest.raises(SettingsError, match=r"CORS_ORIGINS is .* leave the others out"):
        Settings.from_environ({"CORS_ORIGINS": "*, https://a.b"})


def test_an_invalid_origin_exits_with_2(model_file: Path) -> None:
    for workers in (1, 2):
        code, message = refused(model=model_file, cors_origins="https://a.b/", workers=workers)
        assert (code, "CORS_ORIGINS has 'https://a.b/'" in message) == (2, True)
