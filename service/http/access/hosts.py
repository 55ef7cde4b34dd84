"""Check the Host header, against DNS rebinding: a web page whose name resolves to this server."""

import ipaddress
import re
from collections.abc import Sequence
from functools import lru_cache
from typing import Final

from service.settings import Settings

ANY: Final = "*"
# RFC 3986, 3.2.2: a name or an address, with or without a port.
_HOST: Final = re.compile(
    r"(\[[0-9a-z.:_~!$&'()*+,;=-]+\]|(?:[0-9a-z._~!$&'()*+,;=-]|%[0-9a-f]{2})*)(:[0-9]*)?"
)
MAX_HOST: Final = 300  # bytes; a name has 253 at most


class Hosts:
    """Decide which hosts are allowed, by ALLOWED_HOSTS or else by the address the server listens on.

    On the loopback only local names are allowed by default, elsewhere all. An IP address is always allowed:
    DNS cannot make it point elsewhere, and probes by address need no setting.
    """

    def __init__(self, settings: Settings) -> None:
        listed = [name.strip().lower().rstrip(".") for name in settings.allowed_hosts.split(",")]
        self._names = {name for name in listed if name}
        self._local = not self._names and is_loopback(settings.host)
        self._any = ANY in self._names or not (self._names or self._local)
        if self._local:
            self._names = {"localhost", settings.host.lower()}
        self._cached_refusal = lru_cache(1000)(self._look_up)

    def refusal(self, host: bytes | None, version: str, headers: Sequence[tuple[bytes, bytes]]) -> str:
        """Return why a request with the Host `host` and HTTP `version` is refused, "" if it is not.

        `headers` are all its headers, or none if no name is repeated. RFC 9112, 3.2: HTTP/1.1 requires one
        Host header, which may be empty.
        """
        if host is None:
            return (
                "" if version == "1.0" else "HTTP/1.1 needs the header Host; send the server's name in it"
            )
        if headers and sum(name == b"host" for name, _value in headers) > 1:
            return "the request has more than one header Host; send one"
        if len(host) > MAX_HOST:
            return f"the header Host has {len(host)} bytes; the limit is {MAX_HOST}, with the port"
        return self._cached_refusal(host) if host else ""

    def _look_up(self, host: bytes) -> str:
        text = host.decode("latin-1")
        match = _HOST.fullmatch(text.lower())
        if match is None:
            return (
                f"the header Host is {text[:80]!r}; it must be a name or an address, with or without a port"
            )
        if self._is_allowed(match[1].rstrip(".")):
            return ""
        return (
            f"the host {text[:80]!r} is not allowed; use the server's address, or add the name to "
            "ALLOWED_HOSTS"
        )

    def _is_allowed(self, name: str) -> bool:
        if self._any or name in self._names or is_address(name):
            return True
        # A name without a dot, such as a container's, can only be resolved in the local network.
        return self._local and ("." not in name or name.endswith(".localhost"))


def is_loopback(host: str) -> bool:
    """Return whether `host` is localhost or a loopback address."""
    return host.lower() == "localhost" or (is_address(host) and ipaddress.ip_address(host).is_loopback)


def is_address(name: str) -> bool:
    """Return whether `name` is an IPv4 address, or an IPv6 address with or without brackets."""
    try:
        ipaddress.ip_address(name.strip("[]"))
    except ValueError:
        return False
    return True
