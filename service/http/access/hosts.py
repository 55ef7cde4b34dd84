"""The names by which a server may be asked: a page from elsewhere whose name points here gets no answer."""

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
    """By ALLOWED_HOSTS, or else by what the server listens on. An address is always allowed: no name server
    can make it point elsewhere, and whoever probes by address needs no setting.
    """

    def __init__(self, settings: Settings) -> None:
        given = [name.strip().lower().rstrip(".") for name in settings.allowed_hosts.split(",")]
        self._names = {name for name in given if name}
        self._local = not self._names and is_loopback(settings.host)
        self._any = ANY in self._names or not (self._names or self._local)
        if self._local:
            self._names = {"localhost", settings.host.lower()}
        self._remembered = lru_cache(1000)(self._look_up)

    def refusal(self, host: bytes | None, version: str, headers: Sequence[tuple[bytes, bytes]]) -> str:
        """-> why a request with the Host `host` is not answered, or "". `headers` are all that it has,
        or none where no name is there twice. RFC 9112, 3.2: HTTP/1.1 needs one, which may be empty.
        """
        if host is None:
            return (
                "" if version == "1.0" else "HTTP/1.1 needs the header Host; send the server's name in it"
            )
        if headers and sum(name == b"host" for name, _value in headers) > 1:
            return "the request has more than one header Host; send one"
        if len(host) > MAX_HOST:
            return f"the header Host has {len(host)} bytes; a name has {MAX_HOST} at most, with its port"
        return self._remembered(host) if host else ""

    def _look_up(self, host: bytes) -> str:
        said = host.decode("latin-1")
        found = _HOST.fullmatch(said.lower())
        if found is None:
            return f"the header Host is {said[:80]!r}; it must be a name or an address, and a port or none"
        if self._is_allowed(found[1].rstrip(".")):
            return ""
        return (
            f"the host {said[:80]!r} is none of this server's; use its address, or add the name to "
            "ALLOWED_HOSTS"
        )

    def _is_allowed(self, name: str) -> bool:
        if self._any or name in self._names or is_address(name):
            return True
        # A name without a dot, such as that of a container, is known to the local network alone.
        return self._local and ("." not in name or name.endswith(".localhost"))


def is_loopback(host: str) -> bool:
    return host.lower() == "localhost" or (is_address(host) and ipaddress.ip_address(host).is_loopback)


def is_address(name: str) -> bool:
    """IPv4, or IPv6 with or without its brackets."""
    try:
        ipaddress.ip_address(name.strip("[]"))
    except ValueError:
        return False
    return True
