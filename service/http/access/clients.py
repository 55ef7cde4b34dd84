"""Find a client's address: the connection's, or what trusted proxies report in X-Forwarded-For."""

import ipaddress
import re
from collections.abc import Iterable
from functools import lru_cache
from typing import Final

from service.parsers import Network

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
MAX_FORWARDED: Final = 2000  # characters of X-Forwarded-For, from its end, where proxies append
# Some proxies write an address with a port: 192.0.2.1:80, [2001:db8::1]:80.
_WITH_PORT: Final = re.compile(r"\[([^]]*)\](?::\d+)?|([^:]*):\d+")


class Clients:
    """Find clients' addresses behind `trusted` proxies.

    The client's address is the last one in X-Forwarded-For that is not a trusted proxy's.
    """

    def __init__(self, trusted: tuple[Network, ...]) -> None:
        self._trusted = trusted
        self._is_trusted = lru_cache(1000)(self._look_up)

    def address(self, peer: str | None, headers: Iterable[tuple[bytes, bytes]]) -> str | None:
        """Return the client's address for a request with `headers` on a connection from `peer`."""
        address = _parse(peer or "")
        if address is None:
            return peer
        if self._is_trusted(address):
            for hop in reversed(_hops(headers)):
                hop_address = _parse(hop)
                if hop_address is None:  # the proxy that wrote this entry is the last known address
                    break
                address = hop_address
                if not self._is_trusted(address):
                    break
        return str(address)

    def _look_up(self, address: Address) -> bool:
        return any(address in network for network in self._trusted)


def _hops(headers: Iterable[tuple[bytes, bytes]]) -> list[str]:
    lines = [value for name, value in headers if name == b"x-forwarded-for"]
    text = b",".join(lines)[-MAX_FORWARDED:].decode("latin-1")
    return [hop for hop in text.split(",") if hop.strip()]  # a list may have empty elements (RFC 9110)


@lru_cache(1000)
def _parse(text: str) -> Address | None:
    text = text.strip()
    if match := _WITH_PORT.fullmatch(text):
        text = match[1] or match[2]
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return None
    # A socket for both families reports IPv4 clients as IPv4-mapped IPv6 addresses.
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return mapped or address
