"""Parse settings that are more than a number or a word: hosts, networks, origins and WORKERS.

Each parser raises ValueError with a text that continues a sentence after the setting's name: "is 'x'; it
must be ...".
"""

import ipaddress
import re
import sys
from contextlib import suppress
from typing import Final

Network = ipaddress.IPv4Network | ipaddress.IPv6Network
ANY: Final = "*"
AUTO: Final = 0  # WORKERS=auto, until service.server.worker_count has chosen a number
NULL: Final = "null"  # the origin of local files and sandboxed frames
DEFAULT_PORTS: Final = {"http": "80", "https": "443"}
# RFC 6454, 6.1, with any scheme, because browser extensions and apps have their own.
_ORIGIN: Final = re.compile(r"([a-z][a-z0-9+.-]*)://([a-z0-9._~-]+|\[[0-9a-f:.]+\])(?::([0-9]{1,5}))?")


def parse_host(text: str) -> str:
    """Return an IP address or a host name unchanged. Raises ValueError for a URL, brackets or a port."""
    try:
        ipaddress.ip_address(text)
    except ValueError:
        if set(text) & set(" /:[]@"):
            raise ValueError(
                f"is {text!r}; it must be just an address or a name, such as 127.0.0.1 or ::1, without "
                "scheme, brackets or port; the port is set by PORT"
            ) from None
    return text


def parse_networks(text: str) -> tuple[Network, ...]:
    """Parse comma-separated addresses and networks. Raises ValueError."""
    try:
        return tuple(_parse_network(part) for part in _split(text))
    except ValueError as error:
        raise ValueError(
            f"is {text!r}; it must be addresses or networks such as 10.0.0.0/8, with commas: {error}"
        ) from None


def parse_origins(text: str) -> tuple[str, ...]:
    """Parse comma-separated origins. Raises ValueError for one that no browser sends, naming it."""
    origins = tuple(_split(text))
    if ANY in origins and len(origins) > 1:
        raise ValueError(f"is {text!r}; * allows all origins, so leave the others out")
    for origin in origins:
        if origin not in {ANY, NULL} and (reason := _origin_error(origin)):
            raise ValueError(f"has {origin!r}, which no browser sends as an origin: {reason}")
    return origins


def parse_workers(value: str | int) -> int:
    """Parse the number of processes; `auto` becomes AUTO. Raises ValueError."""
    if value == "auto":
        return AUTO
    with suppress(ValueError):
        if (number := int(value)) > 0:
            return number
    raise ValueError(f"is {value!r}; it must be auto or a whole number, 1 or more")


def require_linux(value: int) -> int:
    """Return a number of decoding processes unchanged. Raises ValueError if they cannot be limited."""
    if value and sys.platform != "linux":  # their limits need /proc and prctl
        raise ValueError(f"is {value}; only Linux has them: use 0")
    return value


def _split(text: str) -> list[str]:
    return [item for part in text.split(",") if (item := part.strip())]


def _parse_network(text: str) -> Network:
    """Parse one network; IPv4-mapped IPv6 becomes IPv4, like the addresses it is compared with."""
    network = ipaddress.ip_network(text, strict=False)
    mapped = network.network_address.ipv4_mapped if isinstance(network, ipaddress.IPv6Network) else None
    if mapped is None or network.prefixlen < 96:
        return network
    return ipaddress.IPv4Network((mapped, network.prefixlen - 96))


def _origin_error(origin: str) -> str:
    """Return what is wrong with an origin, and the remedy; "" for a valid one."""
    if "://" not in origin:
        return f"it has no scheme; write https://{origin} or http://{origin}"
    scheme, _, rest = origin.partition("://")
    host = re.split(r"[/?#]", rest, maxsplit=1)[0]
    if host != rest:
        return f"it has a path or a slash after the host; write {scheme}://{host}"
    if ANY in host:
        return "* cannot be a part of a host; list each host, or use only *"
    if not host.isascii():
        return "browsers send such a host in ASCII (xn--...); write that"
    if origin != origin.lower():
        return f"browsers send it in lower case; write {origin.lower()}"
    match = _ORIGIN.fullmatch(origin)
    if match is None or int(match[3] or 0) > 65535:
        return "write scheme://host or scheme://host:port"
    if match[3] is not None and match[3] == DEFAULT_PORTS.get(scheme):
        return f"browsers leave out the scheme's default port; write {scheme}://{match[2]}"
    return ""
