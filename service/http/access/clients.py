"""Whose request it is: the address of the connection, or what proxies that are trusted say of theirs."""

import ipaddress
import re
from collections.abc import Iterable
from functools import lru_cache
from typing import Final

from service.parsers import Network

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
MAX_FORWARDED: Final = 2000  # characters of X-Forwarded-For, from the end: proxies add to it there
# An address with a port, which some proxies write: 192.0.2.1:80, [2001:db8::1]:80.
_WITH_PORT: Final = re.compile(r"\[([^]]*)\](?::\d+)?|([^:]*):\d+")


class Clients:
    """`trusted` proxies are believed: the last address that none of them has is the client's."""

    def __init__(self, trusted: tuple[Network, ...]) -> None:
        self._trusted = trusted
        self._trusts = lru_cache(1000)(self._look_up)

    def address(self, peer: str | None, headers: Iterable[tuple[bytes, bytes]]) -> str | None:
        """Return that of a request with these `headers`, from the connection of `peer`."""
        address = _parse(peer or "")
        if address is None:
            return peer
        if self._trusts(address):
            for hop in reversed(_hops(headers)):
                said = _parse(hop)
                if said is None:  # whoever wrote that is the last that is known
                    break
                address = said
                if not self._trusts(address):
                    break
        return str(address)

    def _look_up(self, address: Address) -> bool:
        return any(address in network for network in self._trusted)


def _hops(headers: Iterable[tuple[bytes, bytes]]) -> list[str]:
    lines = [value for name, value in headers if name == b"x-forwarded-for"]
    said = b",".join(lines)[-MAX_FORWARDED:].decode("latin-1")
    return [hop for hop in said.split(",") if hop.strip()]  # a list may have empty elements (RFC 9110)


@lru_cache(1000)
def _parse(text: str) -> Address | None:
    text = text.strip()
    if found := _WITH_PORT.fullmatch(text):
        text = found[1] or found[2]
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return None
    # An IPv4 client of a socket that takes both families.
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return mapped or address
