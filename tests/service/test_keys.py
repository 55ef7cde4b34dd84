"""API keys: which paths want one, keys read again, a share of the house for each, other origins."""

import hashlib
import signal
import socket
from pathlib import Path

import httpx
import pytest

from service.errors import Forbidden
from service.keys import Keys
from service.settings import Settings
from tests.service.answers import check
from tests.service.images import plain
from tests.service.server import serving
from tests.service.wire import wait_until_inside


def written(path: Path, *keys: str) -> Path:
    path.write_text("".join(f"{hashlib.sha256(key.encode()).hexdigest()}\n" for key in keys))
    return path


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


def test_keys_are_read_again_on_a_signal(model_file: Path, tmp_path: Path) -> None:
    keys = written(tmp_path / "keys", "old")
    with serving(tmp_path / "log", model_file, api_keys_file=keys) as server:
        get = server.client.get
        assert get("/models", headers=bearer("old")).status_code == 200
        written(keys, "new")
        server.process.send_signal(signal.SIGHUP)
        while get("/models", headers=bearer("new")).status_code == 401:
            pass
        check(get("/models", headers=bearer("old")), 401, "unauthorized")
        keys.write_text("not a digest")
        server.process.send_signal(signal.SIGHUP)
        while "the keys stay as they were" not in server.log:
            pass
        assert get("/models", headers=bearer("new")).status_code == 200


def test_an_admin_s_key_opens_everything_and_no_other_does_admin(tmp_path: Path) -> None:
    keys = Keys(Settings(admin_keys_file=written(tmp_path / "admins", "root")))
    assert not keys.wanted
    keys.require_admin(keys.known(b"Bearer root"))
    for other in (b"", b"Bearer", b"Bearer user", b"Basic root"):
        with pytest.raises(Forbidden, match="admin's key"):
            keys.require_admin(keys.known(other))
    both = Keys(
        Settings(api_keys_file=written(tmp_path / "keys", "user"), admin_keys_file=tmp_path / "admins")
    )
    assert both.wanted
    assert both.known(b"Bearer root")
    with pytest.raises(Forbidden, match="admin's key"):
        both.require_admin(both.known(b"Bearer user"))
    with pytest.raises(Forbidden, match="ADMIN_KEYS_FILE"):
        Keys(Settings()).require_admin("")


def test_a_key_has_its_share_and_others_have_theirs(model_file: Path, tmp_path: Path) -> None:
    keys = written(tmp_path / "keys", "greedy", "modest")
    limits = {"api_keys_file": keys, "max_queue": 8, "max_queue_per_key": 2, "body_timeout_s": 30}
    with serving(tmp_path / "log", model_file, **limits) as server:
        server.client.headers.update(bearer("modest"))
        host, port = server.address.removeprefix("http://").split(":")
        held = [socket.create_connection((host, int(port))) for _ in range(2)]
        for connection in held:
            connection.sendall(
                b"POST /predict HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer greedy\r\n"
                b"Content-Length: 9\r\n\r\nab"
            )
        wait_until_inside(server, 2)
        refused = httpx.post(server.address + "/predict", headers=bearer("greedy"), content=plain(1))
        check(refused, 429, "overloaded", "of this API key", "2")
        assert int(refused.headers["retry-after"]) >= 1
        assert server.client.post("/predict", content=plain(1)).status_code == 200
        for connection in held:
            connection.close()
        wait_until_inside(server, 0)
        again = httpx.post(server.address + "/predict", headers=bearer("greedy"), content=plain(1))
        assert again.status_code == 200


def test_other_origins_may_ask_only_where_they_are_listed(model_file: Path, tmp_path: Path) -> None:
    keys = written(tmp_path / "keys", "key")
    asking = {"Origin": "https://example.org", "Access-Control-Request-Method": "POST"}
    listed = {"cors_origins": "https://example.com, https://example.org", "api_keys_file": keys}
    with serving(tmp_path / "log", model_file, **listed) as server:
        answer = server.client.options("/predict", headers=asking)
        assert answer.headers["access-control-allow-origin"] == "https://example.org"
        wrong = server.client.options("/predict", headers=asking | {"Origin": "https://elsewhere.org"})
        assert "access-control-allow-origin" not in wrong.headers
        refused = server.client.post("/predict", headers={"Origin": "https://example.org"})
        check(refused, 401, "unauthorized")
        assert refused.headers["access-control-allow-origin"] == "https://example.org"
    with serving(tmp_path / "log", model_file) as server:
        answer = server.client.post("/predict", headers={"Origin": "https://example.org"}, content=plain(1))
        assert answer.status_code == 200
        assert "access-control-allow-origin" not in answer.headers
