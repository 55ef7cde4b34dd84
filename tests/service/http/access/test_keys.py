"""Test API keys and admin keys: key files, reloading, and each key's share of the capacity."""

import hashlib
import os
import signal
from pathlib import Path

import httpx
import pytest

from service.errors import Forbidden
from service.http.access.keys import Keys
from service.settings import Settings, SettingsError
from tests.support.eventually import eventually
from tests.support.serving.images import plain
from tests.support.serving.raw_http import held_request, wait_until_in_flight
from tests.support.serving.responses import check
from tests.support.serving.server import serving


def written(path: Path, *keys: str) -> Path:
    """Write the digests of `keys` to a key file, and return its path."""
    path.write_text("".join(f"{hashlib.sha256(key.encode()).hexdigest()}\n" for key in keys))
    return path


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


def test_sighup_reloads_keys(model_file: Path, tmp_path: Path) -> None:
    keys = written(tmp_path / "keys", "old")
    with serving(tmp_path / "log", model_file, api_keys_file=keys) as server:
        get = server.client.get
        assert get("/models", headers=bearer("old")).status_code == 200
        written(keys, "new")
        server.process.send_signal(signal.SIGHUP)
        eventually(lambda: get("/models", headers=bearer("new")).status_code != 401)
        check(get("/models", headers=bearer("old")), 401, "unauthorized")
        keys.write_text("not a digest")
        server.process.send_signal(signal.SIGHUP)
        eventually(lambda: "the keys are not changed" in server.log)
        assert get("/models", headers=bearer("new")).status_code == 200


@pytest.mark.parametrize("emptied", [b"", b"\n \n\t", b"# none any more\n", b"\xef\xbb\xbf"])
def test_an_emptied_file_revokes_its_keys_and_access_stays_closed(emptied: bytes, tmp_path: Path) -> None:
    users, admins = written(tmp_path / "keys", "user"), written(tmp_path / "admins", "root")
    keys = Keys(Settings(api_keys_file=users, admin_keys_file=admins))
    users.write_bytes(emptied)
    admins.write_bytes(b"not a digest")
    keys.reload()
    assert keys.required
    assert not keys.digest_of(b"Bearer user")
    assert keys.digest_of(b"Bearer root"), "a damaged file changes nothing"
    admins.write_bytes(emptied)
    keys.reload()
    assert keys.required
    assert not keys.digest_of(b"Bearer root")
    with pytest.raises(Forbidden):
        keys.require_admin(keys.digest_of(b"Bearer root"))
    written(users, "user")
    keys.reload()
    assert keys.digest_of(b"Bearer user")


def test_sighup_revokes_the_keys_of_an_emptied_file(model_file: Path, tmp_path: Path) -> None:
    keys = written(tmp_path / "keys", "old")
    with serving(tmp_path / "log", model_file, api_keys_file=keys) as server:
        assert server.client.get("/models", headers=bearer("old")).status_code == 200
        keys.write_text("")
        server.process.send_signal(signal.SIGHUP)
        eventually(lambda: server.client.get("/models", headers=bearer("old")).status_code != 200)
        check(server.client.get("/models"), 401, "unauthorized")
        check(server.client.get("/models", headers=bearer("old")), 401, "unauthorized")
        assert "API_KEYS_FILE no longer has a key in it: all of its keys are revoked" in server.log


@pytest.mark.parametrize("key", ["", "\n", "\r\n", " ", " \n"])
def test_the_digest_of_an_empty_key_is_refused(key: str, tmp_path: Path) -> None:
    path = written(tmp_path / "keys", "good", key)
    with pytest.raises(SettingsError, match="API_KEYS_FILE: key 2 is the SHA-256 of an empty key"):
        Keys(Settings(api_keys_file=path))
    path.write_text(path.read_text().upper())
    with pytest.raises(SettingsError, match="ADMIN_KEYS_FILE: key 2 is the SHA-256 of an empty key"):
        Keys(Settings(admin_keys_file=path))


def test_an_empty_key_is_unknown(tmp_path: Path) -> None:
    keys = Keys(Settings(api_keys_file=written(tmp_path / "keys", "user")))
    for header in (b"", b"Bearer", b"Bearer ", b"Bearer  ", b"bearer \t"):
        assert not keys.digest_of(header)


DIGEST = hashlib.sha256(b"user").hexdigest()


@pytest.mark.parametrize(
    "data",
    [
        DIGEST.encode(),
        DIGEST.upper().encode(),
        f"\ufeff{DIGEST}\r\n".encode(),
        f"# comment\n\n  {DIGEST}\t\n{DIGEST}\n".encode(),
        f"{DIGEST}\r# old Mac".encode(),
    ],
)
def test_valid_key_files(data: bytes, tmp_path: Path) -> None:
    (tmp_path / "keys").write_bytes(data)
    assert Keys(Settings(api_keys_file=tmp_path / "keys")).digest_of(b"Bearer user") == DIGEST


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "has no key in it"),
        (b"a-key-in-the-clear", "key 1 is not a SHA-256"),
        (f"{DIGEST}\na-key-in-the-clear".encode(), "key 2 is not a SHA-256"),
        (f"{DIGEST} a-key-in-the-clear".encode(), "key 1 is not a SHA-256"),
        (f"a-key-in-the-clear:{DIGEST}".encode(), "key 1 is not a SHA-256"),
        (f"0x{DIGEST}".encode(), "key 1 is not a SHA-256"),
        (f"{DIGEST}\0".encode(), "key 1 is not a SHA-256"),
        (DIGEST.encode("utf-16"), "is not text in UTF-8"),
        (b"a-key-in-the-clear\xff", "is not text in UTF-8"),
        (f"{DIGEST}\n".encode() * 20_000, "1,300,000 bytes, 1,000,000 are allowed"),
    ],
)
def test_invalid_key_files_are_refused(data: bytes, reason: str, tmp_path: Path) -> None:
    (tmp_path / "keys").write_bytes(data)
    with pytest.raises(SettingsError, match=f"API_KEYS_FILE.*{reason}") as raised:
        Keys(Settings(api_keys_file=tmp_path / "keys"))
    assert "clear" not in str(raised.value), "the key itself is not quoted"


def test_key_files_must_be_regular_files(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", Path("/dev/zero"), tmp_path):
        with pytest.raises(SettingsError, match=r"API_KEYS_FILE cannot be read: it is not a regular file"):
            Keys(Settings(api_keys_file=path))
    written(tmp_path / "keys", "user")
    (tmp_path / "link").symlink_to("keys")  # as Kubernetes mounts secrets
    assert Keys(Settings(api_keys_file=tmp_path / "link")).digest_of(b"Bearer user")


def test_admin_keys_are_valid_everywhere_and_required_for_admin(tmp_path: Path) -> None:
    keys = Keys(Settings(admin_keys_file=written(tmp_path / "admins", "root")))
    assert not keys.required
    keys.require_admin(keys.digest_of(b"Bearer root"))
    for other in (b"", b"Bearer", b"Bearer user", b"Basic root"):
        with pytest.raises(Forbidden, match="admin's key"):
            keys.require_admin(keys.digest_of(other))
    both = Keys(
        Settings(api_keys_file=written(tmp_path / "keys", "user"), admin_keys_file=tmp_path / "admins")
    )
    assert both.required
    assert both.digest_of(b"Bearer root")
    with pytest.raises(Forbidden, match="admin's key"):
        both.require_admin(both.digest_of(b"Bearer user"))
    with pytest.raises(Forbidden, match="ADMIN_KEYS_FILE"):
        Keys(Settings()).require_admin("")


def test_max_queue_per_key_limits_each_key_separately(model_file: Path, tmp_path: Path) -> None:
    keys = written(tmp_path / "keys", "greedy", "modest")
    limits = {"api_keys_file": keys, "max_queue": 8, "max_queue_per_key": 2}
    limits |= {"max_wait_ms": 60_000}  # admitted images stay in flight for this long
    with serving(tmp_path / "log", model_file, **limits) as server:
        server.client.headers.update(bearer("modest"))
        held = [held_request(server, Authorization="Bearer greedy") for _ in range(2)]
        wait_until_in_flight(server, 2)
        refused = httpx.post(server.address + "/predict", headers=bearer("greedy"), content=plain(1))
        check(refused, 429, "overloaded", "of this API key", "2")
        assert int(refused.headers["retry-after"]) >= 1
        held.append(held_request(server, Authorization="Bearer modest"))
        wait_until_in_flight(server, 3)
        for connection in held:
            connection.close()
        wait_until_in_flight(server, 0)
        with held_request(server, Authorization="Bearer greedy"):
            wait_until_in_flight(server, 1)
