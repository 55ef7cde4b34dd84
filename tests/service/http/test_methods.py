"""HEAD, OPTIONS and trailing slashes on every path.

HEAD is GET without the body, OPTIONS lists the allowed methods, and a trailing slash changes nothing,
neither for API keys nor in metrics and logs.
"""

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.serving.images import plain
from tests.support.serving.raw_http import answer_on, connect, exchange, request, send
from tests.support.serving.responses import check
from tests.support.serving.server import Server, metrics, serving

MODEL = "/v2/models/tiny"
GETS = [
    *("/", "/docs", "/static/app.js", "/openapi.json", "/models", "/models/tiny/filters.png", "/metrics"),
    *("/health", "/health/ready", "/health/live", "/v2", "/v2/health/live", "/v2/health/ready"),
    *(MODEL, f"{MODEL}/ready", f"{MODEL}/versions/3", f"{MODEL}/versions/3/ready"),
]
POSTS = [
    *("/predict", "/embed", "/explain", f"{MODEL}/infer", f"{MODEL}/versions/3/infer"),
    *("/v2/repository/index", f"{MODEL.replace('/v2', '/v2/repository')}/load"),
]
FILES = ("/", "/docs", "/static/app.js")
VARYING_HEADERS = {"x-request-id", "date", "content-length"}


@pytest.fixture(scope="module")
def keyed(model_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    keys = tmp_path_factory.mktemp("keys") / "keys"
    keys.write_text(hashlib.sha256(b"key").hexdigest())
    settings = {"api_keys_file": keys, "log_format": "json"}
    with serving(tmp_path_factory.mktemp("log") / "stderr", model_file, **settings) as running:
        yield running


@pytest.mark.parametrize("path", GETS)
def test_head_is_get_without_its_body(server: Server, path: str) -> None:
    expected = server.client.get(path)
    with connect(server) as connection:
        send(connection, request("HEAD", path, close=False, Accept_Encoding="gzip, deflate"))
        head = b""
        while b"\r\n\r\n" not in head:
            head += connection.recv(65536)
        assert head.endswith(b"\r\n\r\n")
        send(connection, request("GET", "/health/live"))  # the connection stays usable
        assert answer_on(connection).json() == {"status": "ok"}
    status_line, *lines = head.decode().strip().split("\r\n")
    headers = dict(line.split(": ", 1) for line in lines)
    assert status_line == "HTTP/1.1 200 OK"
    assert headers.keys() == expected.headers.keys()
    assert {
        k: v for k, v in expected.headers.items() if k not in VARYING_HEADERS
    }.items() <= headers.items()
    if path != "/metrics":
        assert headers["content-length"] == expected.headers["content-length"]


@pytest.mark.parametrize("path", ["/nothing", "/models/nothing/filters.png", "/v2/models/nothing"])
def test_head_of_unknown_paths_is_404(server: Server, path: str) -> None:
    assert server.client.head(path).status_code == 404


@pytest.mark.parametrize("path", GETS + POSTS)
@pytest.mark.parametrize("slash", ["", "/"])
def test_options_and_405_list_the_allowed_methods(server: Server, path: str, slash: str) -> None:
    allowed = "GET, HEAD, OPTIONS" if path in GETS else "OPTIONS, POST"
    path += "" if path in FILES else slash
    answer = server.client.request("OPTIONS", path)
    assert (answer.status_code, answer.headers["allow"], answer.content) == (204, allowed, b"")
    for method in ("DELETE", "PUT", "HEAD" if "POST" in allowed else "POST"):
        answer = server.client.request(method, path)
        assert (answer.status_code, answer.headers["allow"]) == (405, allowed)


def test_options_of_the_server_and_of_unknown_paths(server: Server, keyed: Server) -> None:
    for target in (server, keyed):
        (answer,) = exchange(target, request("OPTIONS", "*"))
        assert (answer.status_code, answer.headers["allow"]) == (204, "GET, HEAD, OPTIONS, POST")
    check(server.client.request("OPTIONS", "/nothing"), 404, "not_found")


@pytest.mark.parametrize("path", [path for path in GETS if path not in FILES])
def test_trailing_slash_changes_nothing(server: Server, path: str) -> None:
    expected, actual = server.client.get(path), server.client.get(f"{path}/")
    assert (actual.status_code, actual.headers.keys()) == (200, expected.headers.keys())
    assert path == "/metrics" or actual.content == expected.content
    for other in (f"{path}//", f"/{path}", f"/{path}/"):
        assert server.client.get(server.address + other).status_code == 404


def test_metrics_count_a_trailing_slash_for_the_same_route(server: Server) -> None:
    """The request is answered, not redirected: a redirect would lose the body."""
    label = "alexnet_requests_total,route={},status=200"
    for path in ("/predict", "/embed", "/explain"):
        before = metrics(server).get(label.format(path), 0)
        assert server.client.post(f"{path}/?model=tiny", content=plain(1)).status_code == 200
        assert metrics(server)[label.format(path)] == before + 1
    infer = json.dumps({"inputs": []})
    (error,) = {server.client.post(f"{MODEL}/infer{slash}", content=infer).text for slash in ("", "/")}
    assert "0 tensors" in error


def test_no_slash_bypasses_the_key_check(keyed: Server) -> None:
    for path in ["/docs", *GETS[3:7], *GETS[10:11], *GETS[13:], "/nothing"]:
        for method in ("GET", "HEAD", "OPTIONS"):
            for slash in ("", "/", "//", "%2F", "/."):
                answer = keyed.client.request(method, keyed.address + path + slash)
                assert answer.status_code == 401, (method, path, slash)
    for path in POSTS:
        check_key = keyed.client.post(f"{path}/", content=plain(1))
        assert check_key.status_code == 401
    key = {"Authorization": "Bearer key"}
    for path in ("/health", "/health/live", "/v2/health/ready"):
        assert keyed.client.get(f"{path}/").status_code == 200, "health needs no key"
    assert keyed.client.post("/predict/", content=plain(1), headers=key).status_code == 200
    assert keyed.process.stdout is not None
    line = next(line for line in keyed.process.stdout if '"POST"' in line and '"status": 200' in line)
    assert json.loads(line)["path"] == "/predict"
