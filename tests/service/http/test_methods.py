"""What holds for every path: HEAD is GET without its body, OPTIONS says what is allowed, and a slash at the
end changes nothing, neither for keys nor in the metrics and the log.
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
CHANGING = {"x-request-id", "date", "content-length"}


@pytest.fixture(scope="module")
def keyed(model_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    keys = tmp_path_factory.mktemp("keys") / "keys"
    keys.write_text(hashlib.sha256(b"key").hexdigest())
    settings = {"api_keys_file": keys, "log_format": "json"}
    with serving(tmp_path_factory.mktemp("log") / "stderr", model_file, **settings) as running:
        yield running


@pytest.mark.parametrize("path", GETS)
def test_head_is_get_without_its_body(server: Server, path: str) -> None:
    wanted = server.client.get(path)
    with connect(server) as connection:
        send(connection, request("HEAD", path, close=False, Accept_Encoding="gzip, deflate"))
        head = b""
        while b"\r\n\r\n" not in head:
            head += connection.recv(65536)
        assert head.endswith(b"\r\n\r\n")
        send(connection, request("GET", "/health/live"))  # it goes on behind the head
        assert answer_on(connection).json() == {"status": "ok"}
    line, *lines = head.decode().strip().split("\r\n")
    found = dict(each.split(": ", 1) for each in lines)
    assert line == "HTTP/1.1 200 OK"
    assert found.keys() == wanted.headers.keys()
    assert {k: v for k, v in wanted.headers.items() if k not in CHANGING}.items() <= found.items()
    if path != "/metrics":
        assert found["content-length"] == wanted.headers["content-length"]


@pytest.mark.parametrize("path", ["/nothing", "/models/nothing/filters.png", "/v2/models/nothing"])
def test_head_of_what_is_not_there(server: Server, path: str) -> None:
    assert server.client.head(path).status_code == 404


@pytest.mark.parametrize("path", GETS + POSTS)
@pytest.mark.parametrize("slash", ["", "/"])
def test_options_and_405_say_what_is_allowed(server: Server, path: str, slash: str) -> None:
    allowed = "GET, HEAD, OPTIONS" if path in GETS else "OPTIONS, POST"
    path += "" if path in FILES else slash
    answer = server.client.request("OPTIONS", path)
    assert (answer.status_code, answer.headers["allow"], answer.content) == (204, allowed, b"")
    for method in ("DELETE", "PUT", "HEAD" if "POST" in allowed else "POST"):
        answer = server.client.request(method, path)
        assert (answer.status_code, answer.headers["allow"]) == (405, allowed)


def test_options_of_the_server_and_of_nothing(server: Server, keyed: Server) -> None:
    for asked in (server, keyed):
        (answer,) = exchange(asked, request("OPTIONS", "*"))
        assert (answer.status_code, answer.headers["allow"]) == (204, "GET, HEAD, OPTIONS, POST")
    check(server.client.request("OPTIONS", "/nothing"), 404, "not_found")


@pytest.mark.parametrize("path", [path for path in GETS if path not in FILES])
def test_a_slash_at_the_end_changes_nothing(server: Server, path: str) -> None:
    wanted, found = server.client.get(path), server.client.get(f"{path}/")
    assert (found.status_code, found.headers.keys()) == (200, wanted.headers.keys())
    assert path == "/metrics" or found.content == wanted.content
    for other in (f"{path}//", f"/{path}", f"/{path}/"):
        assert server.client.get(server.address + other).status_code == 404


def test_an_image_behind_a_slash_counts_for_the_route(server: Server) -> None:
    """A redirect would lose the body."""
    label = "alexnet_requests_total,route={},status=200"
    for path in ("/predict", "/embed", "/explain"):
        before = metrics(server).get(label.format(path), 0)
        assert server.client.post(f"{path}/?model=tiny", content=plain(1)).status_code == 200
        assert metrics(server)[label.format(path)] == before + 1
    infer = json.dumps({"inputs": []})
    (found,) = {server.client.post(f"{MODEL}/infer{slash}", content=infer).text for slash in ("", "/")}
    assert "0 tensors" in found


def test_a_slash_leads_past_no_key(keyed: Server) -> None:
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
        assert keyed.client.get(f"{path}/").status_code == 200, "they need none"
    assert keyed.client.post("/predict/", content=plain(1), headers=key).status_code == 200
    assert keyed.process.stdout is not None
    line = next(line for line in keyed.process.stdout if '"POST"' in line and '"status": 200' in line)
    assert json.loads(line)["path"] == "/predict"
