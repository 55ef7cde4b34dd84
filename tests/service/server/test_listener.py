"""Test HOST and PORT: the addresses listened on, and errors that name the setting at fault."""

import os
import socket
import subprocess
from pathlib import Path

import httpx
import pytest

from service.server.listener import ListenError, address_of, bind_socket
from tests.support.serving.server import COMMAND, environ, refused, serving

NO_IPV6 = "mount -t proc proc /proc && echo 1 >/proc/sys/net/ipv6/conf/all/disable_ipv6 && exec "


def test_the_unspecified_ipv6_address_accepts_both_families(model_file: Path, tmp_path: Path) -> None:
    with serving(tmp_path / "log", model_file, host="::") as server:
        port = httpx.URL(server.address).port
        for address in (server.address, f"http://127.0.0.1:{port}", f"http://[::1]:{port}"):
            assert httpx.get(f"{address}/health").status_code == 200


@pytest.mark.parametrize(
    ("host", "reached", "refused_by"),
    [
        ("::1", "::1", "127.0.0.1"),
        ("0.0.0.0", "127.0.0.1", "::1"),
        ("::0", "::1", ""),
        ("localhost", "127.0.0.1", "::1"),
    ],
)
def test_only_the_given_address_is_listened_on(host: str, reached: str, refused_by: str) -> None:
    with bind_socket(host, 0) as listener:
        listener.listen()
        url, port = httpx.URL(address_of(listener)), listener.getsockname()[1]
        for address in (reached, url.host):
            socket.create_connection((address, port), 10).close()
        if refused_by:
            with pytest.raises(ConnectionRefusedError):
                socket.create_connection((refused_by, port), 10)


@pytest.mark.parametrize("host", ["x86_64-conda-linux-gnu", "a..b", "x" * 300, "256.1.1.1", "no.invalid"])
def test_an_unknown_name_is_an_error_of_host(host: str) -> None:
    """conda sets HOST to the platform for which its compilers build."""
    with pytest.raises(ListenError, match=rf"^HOST is '{host}': .*; unset it or use 127\.0\.0\.1$"):
        bind_socket(host, 0)


@pytest.mark.parametrize("host", ["192.0.2.1", "2001:db8::1", "fe80::1"])
def test_an_address_of_another_machine_is_an_error_of_host(host: str) -> None:
    with pytest.raises(ListenError, match=rf"^HOST is '{host}': .*; use 127\.0\.0\.1, or 0\.0\.0\.0"):
        bind_socket(host, 0)


def test_a_host_set_by_conda_exits_with_1(model_file: Path) -> None:
    code, line = refused(model=model_file, host="x86_64-conda-linux-gnu")
    assert (code, line.startswith("error: HOST is 'x86_64-conda-linux-gnu': ")) == (1, True)


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "::"])
def test_a_port_in_use_is_named(host: str) -> None:
    with bind_socket(host, 0) as taken:
        taken.listen()
        with pytest.raises(ListenError, match=r"^cannot listen on .*: Address already in use; .*PORT to"):
            bind_socket(host, taken.getsockname()[1])


@pytest.mark.skipif(os.getuid() != 0, reason="only root can drop its own privilege")
def test_a_privileged_port_is_named() -> None:
    done = subprocess.run(
        ["setpriv", "--bounding-set=-net_bind_service", *COMMAND],
        env=environ(port=80),
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 1
    assert done.stderr.startswith(
        "error: cannot listen on 127.0.0.1:80: Permission denied; set PORT to 1024"
    )


@pytest.mark.skipif(os.getuid() != 0, reason="only root can make a network without IPv6")
def test_a_machine_without_ipv6_is_named() -> None:
    done = subprocess.run(
        ["unshare", "--net", "--mount", "sh", "-c", f'{NO_IPV6} "$@"', "-", *COMMAND],
        env=environ(host="::1"),
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 1
    assert done.stderr.startswith("error: HOST is '::1': "), done.stderr
    assert "or no IPv6; use 127.0.0.1" in done.stderr
