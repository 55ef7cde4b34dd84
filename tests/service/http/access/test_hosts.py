"""Test the Host header: a page whose name is made to point here (DNS rebinding) gets no answer."""

from pathlib import Path

import httpx
import pytest

from service.http.access.hosts import Hosts
from service.settings import Settings
from tests.support.serving.raw_http import exchange, request
from tests.support.serving.responses import check
from tests.support.serving.server import Server, serving

LOCAL = ["localhost", "localhost:8000", "LOCALHOST.", "127.0.0.1", "127.0.0.1:80", "[::1]", "[::1]:8000"]
BY_ADDRESS = ["10.1.2.3:8000", "[fe80::1]:8000"]
UNKNOWN = [
    "evil.example",
    "evil.example:8000",
    "127.0.0.1.evil.example",
    "localhost.evil.example",
    "my_service.example",
]
MALFORMED = [
    "a.b:c:d",
    "a b",
    "a,b c",
    "http://x",
    "x/y",
    "[",
    "a]b[:9",
    "{",
    "user@x",
    "%0",
    "x" * 301,
    "\xe4",
]


def allowed(host_header: str, **settings: str) -> bool:
    return not Hosts(Settings(**settings)).refusal(host_header.encode("latin-1"), "1.1", ())  # type: ignore[arg-type]


@pytest.mark.parametrize("listening", ["127.0.0.1", "localhost", "::1", "127.8.8.8"])
def test_on_the_loopback_local_names_and_addresses_are_allowed(listening: str) -> None:
    for host in [*LOCAL, *BY_ADDRESS, "service", "a.localhost", ""]:
        assert allowed(host, host=listening), host
    for host in UNKNOWN:
        assert not allowed(host, host=listening), host


@pytest.mark.parametrize("listening", ["0.0.0.0", "::", "192.0.2.1", "photos.example"])
def test_on_other_addresses_every_name_is_allowed(listening: str) -> None:
    for host in [*LOCAL, *UNKNOWN]:
        assert allowed(host, host=listening), host


def test_allowed_hosts_allows_its_names_and_all_addresses() -> None:
    for listening in ("127.0.0.1", "0.0.0.0"):
        settings = {"host": listening, "allowed_hosts": "Photos.example, other.example."}
        for host in ["photos.example", "PHOTOS.EXAMPLE:443", "other.example", *BY_ADDRESS, ""]:
            assert allowed(host, **settings), host
        for host in ["localhost", "service", "sub.photos.example", *UNKNOWN]:
            assert not allowed(host, **settings), host
        assert allowed("evil.example", host=listening, allowed_hosts="*")


@pytest.mark.parametrize("path", ["/", "/health", "/models", "/nothing"])
def test_an_unknown_host_is_refused(server: Server, path: str) -> None:
    (answer,) = exchange(server, request("GET", path, Host="evil.example"))
    check(answer, 400, "invalid_request", "'evil.example'", "ALLOWED_HOSTS")


@pytest.mark.parametrize("host", MALFORMED, ids=lambda host: host[:20])
def test_a_malformed_host_is_always_refused(host: str) -> None:
    assert not allowed(host, host="0.0.0.0", allowed_hosts="*")


HOSTS = {
    "none": (b"", "needs the header Host"),
    "two": (b"Host: a\r\nHost: b\r\n", "more than one header Host"),
    "the same twice": (b"Host: a\r\nHost: a\r\n", "more than one header Host"),
    "malformed": (b"Host: a b\r\n", "'a b'"),
    "long": (b"Host: %b\r\n" % (b"x" * 5000), "5000 bytes"),
}


@pytest.mark.parametrize(("sent", "detail"), HOSTS.values(), ids=HOSTS)
@pytest.mark.parametrize("target", [b"/health/live", b"/v2"])
def test_http_1_1_requires_exactly_one_host(
    server: Server, target: bytes, sent: bytes, detail: str
) -> None:
    (answer,) = exchange(server, b"GET %b HTTP/1.1\r\n%bConnection: close\r\n\r\n" % (target, sent))
    assert (answer.status_code, detail in answer.text) == (400, True), answer.text


def test_the_host_of_an_absolute_target_counts(server: Server) -> None:
    """The target is a URL, as for a proxy. The Host header is required all the same."""
    for sent in (b"", b"Host: a\r\nHost: b\r\n"):
        (answer,) = exchange(server, b"GET http://a/ HTTP/1.1\r\nConnection: close\r\n%b\r\n" % sent)
        assert answer.status_code == 400
    (answer,) = exchange(server, request("GET", "http://localhost:80/health/live?x", Host="evil.example"))
    assert answer.status_code == 200
    for host in ("evil.example", "user@localhost", "evil.example?/x"):
        (answer,) = exchange(server, request("GET", f"http://{host}/health/live", Host="localhost"))
        assert answer.status_code == 400


def test_v2_refuses_an_unknown_host_in_the_form_of_its_protocol(server: Server) -> None:
    (answer,) = exchange(server, request("GET", "/v2", Host="evil.example"))
    assert (answer.status_code, list(answer.json())) == (400, ["error"])


def test_http_1_0_needs_no_host(server: Server) -> None:
    (answer,) = exchange(server, b"GET /health/ready HTTP/1.0\r\n\r\n")
    assert answer.status_code == 200
    (answer,) = exchange(server, b"GET /health/ready HTTP/1.0\r\nHost: a\r\nHost: b\r\n\r\n")
    check(answer, 400, "invalid_request")


def test_allowed_hosts_is_applied_by_the_server(model_file: Path, tmp_path: Path) -> None:
    with serving(tmp_path / "log", model_file, allowed_hosts="photos.example") as server:
        headers = {"Host": "photos.example"}
        assert httpx.get(server.address + "/health", headers=headers).status_code == 200
        assert httpx.get(server.address + "/health").status_code == 200, "by address, as probes do"
        check(httpx.get(server.address + "/health", headers={"Host": "x"}), 400, "invalid_request")
