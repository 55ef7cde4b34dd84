"""Test the client's address in the log: the connection's, or the one that trusted proxies report."""

import json
import logging
import subprocess
from pathlib import Path

import httpx
import pytest

from service.http.access.clients import Clients
from service.observability.logs import REQUEST_ID, TextFormatter
from service.parsers import parse_networks
from service.settings import Settings, SettingsError
from tests.support.checkout import free_port, wait_until_healthy
from tests.support.serving.server import COMMAND, environ

TRUSTED = parse_networks("127.0.0.1, 10.0.0.0/8,fd00::/8")


@pytest.mark.parametrize(
    ("peer", "forwarded", "client"),
    [
        ("192.0.2.7", [], "192.0.2.7"),
        ("192.0.2.7", ["198.51.100.1"], "192.0.2.7"),
        ("127.0.0.1", ["198.51.100.1"], "198.51.100.1"),
        ("127.0.0.1", ["203.0.113.9, 198.51.100.1, 10.1.1.1"], "198.51.100.1"),
        ("127.0.0.1", ["203.0.113.9,198.51.100.1", "10.1.1.1"], "198.51.100.1"),
        ("127.0.0.1", ["10.2.2.2, 10.1.1.1"], "10.2.2.2"),
        ("fd00::1", ["2001:db8::1"], "2001:db8::1"),
        ("127.0.0.1", ["[2001:db8::1]:5000"], "2001:db8::1"),
        ("127.0.0.1", ["[2001:db8::1]"], "2001:db8::1"),
        ("127.0.0.1", ["198.51.100.1:5000"], "198.51.100.1"),
        ("127.0.0.1", ["198.51.100.1, unknown"], "127.0.0.1"),
        ("127.0.0.1", ["198.51.100.1, unknown, 10.1.1.1"], "10.1.1.1"),
        ("127.0.0.1", ["\x1b[2J"], "127.0.0.1"),
        ("127.0.0.1", [""], "127.0.0.1"),
        ("127.0.0.1", ["x," * 100_000 + "198.51.100.1"], "198.51.100.1"),
        ("::ffff:127.0.0.1", ["198.51.100.1"], "198.51.100.1"),
        ("::ffff:192.0.2.7", [], "192.0.2.7"),
        ("127.0.0.1", ["203.0.113.9, 198.51.100.1, ,10.1.1.1,"], "198.51.100.1"),
    ],
)
def test_the_last_address_that_is_no_trusted_proxy_is_the_client(
    peer: str, forwarded: list[str], client: str
) -> None:
    headers = [(b"x-forwarded-for", line.encode()) for line in forwarded]
    assert Clients(TRUSTED).address(peer, headers) == client


@pytest.mark.parametrize("text", ["::ffff:10.1.1.1", "::ffff:10.0.0.0/104", "::/0, 0.0.0.0/0"])
def test_ipv4_proxies_may_be_written_as_ipv6(text: str) -> None:
    headers = [(b"x-forwarded-for", b"198.51.100.1")]
    assert Clients(parse_networks(text)).address("10.1.1.1", headers) == "198.51.100.1"


def test_without_trusted_proxies_forwarded_addresses_are_ignored() -> None:
    headers = [(b"x-forwarded-for", b"198.51.100.1")]
    assert Clients(parse_networks("")).address("127.0.0.1", headers) == "127.0.0.1"


@pytest.mark.parametrize("text", ["proxy", "10.0.0.0/33", "10.0.0.1:80", "*"])
def test_an_invalid_network_is_a_settings_error(text: str) -> None:
    with pytest.raises(SettingsError, match=r"^TRUSTED_PROXIES is '.*'; it must be addresses or networks"):
        Settings.from_environ({"TRUSTED_PROXIES": text})


def test_the_log_has_the_connections_address_and_no_health_requests(
    model_file: Path, tmp_path: Path
) -> None:
    port, log = free_port(), tmp_path / "log"
    settings = environ(model=model_file, port=port, log_format="json", forwarded_allow_ips="*")
    with log.open("w") as out, subprocess.Popen(COMMAND, env=settings, stdout=out) as process:
        try:
            wait_until_healthy(process, port)
            for path in ("/health", "/health/live", "/health/ready", "/v2/health/ready", "/healthy"):
                httpx.get(f"http://127.0.0.1:{port}{path}", headers={"X-Forwarded-For": "192.0.2.1"})
        finally:
            process.terminate()
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    assert [(line["path"], line["client"]) for line in lines if "path" in line] == [
        ("/healthy", "127.0.0.1")
    ]


def test_text_log_lines_name_the_request_id() -> None:
    entry = logging.LogRecord("alexnet", logging.ERROR, "", 0, "it failed", (), None)
    token = REQUEST_ID.set("abc")
    try:
        assert TextFormatter().format(entry) == "ERROR it failed (request abc)"
    finally:
        REQUEST_ID.reset(token)
