"""CORS_ORIGINS: pages from elsewhere whose scripts may read answers, as browsers name them in Origin."""

import re
from typing import Final

ANY: Final = "*"
NULL: Final = "null"  # of pages in files and in sandboxed frames
# As RFC 6454, 6.1 writes it; of any scheme, since browsers' extensions and apps have some of their own.
_ORIGIN: Final = re.compile(r"([a-z][a-z0-9+.-]*)://([a-z0-9._~-]+|\[[0-9a-f:.]+\])(?::([0-9]{1,5}))?")
DEFAULT_PORTS: Final = {"http": "80", "https": "443"}
# What scripts may read of an answer beside its body and its type.
EXPOSED: Final = (
    "Retry-After",
    "X-Request-ID",
    "X-Label",
    "Server-Timing",
    "Inference-Header-Content-Length",
)


def read_origins(text: str) -> tuple[str, ...]:
    """Raises ValueError, which names the value, for one that no browser would ever send."""
    origins = tuple(origin for part in text.split(",") if (origin := part.strip()))
    if ANY in origins and len(origins) > 1:
        raise ValueError(f"is {text!r}; * allows all, so leave the others out")
    for origin in origins:
        if origin not in {ANY, NULL} and (reason := _wrong(origin)):
            raise ValueError(f"has {origin!r}, which is never a page's origin: {reason}")
    return origins


def _wrong(origin: str) -> str:
    """What is wrong, and the remedy; "" if nothing is."""
    if "://" not in origin:
        return f"it has no scheme; write https://{origin} or http://{origin}"
    scheme, _, rest = origin.partition("://")
    host = re.split(r"[/?#]", rest, maxsplit=1)[0]
    if host != rest:
        return f"it has a path or a slash behind the host; write {scheme}://{host}"
    if ANY in host:
        return "* cannot be a part of a host; list each host, or use * alone"
    if not host.isascii():
        return "browsers write such a host in ASCII (xn--...)"
    if origin != origin.lower():
        return f"browsers write it in small letters; write {origin.lower()}"
    found = _ORIGIN.fullmatch(origin)
    if found is None or int(found[3] or 0) > 65535:
        return "write scheme://host or scheme://host:port"
    if found[3] is not None and found[3] == DEFAULT_PORTS.get(scheme):
        return f"browsers leave the port out where it is the scheme's own; write {scheme}://{found[2]}"
    return ""


def allowing(origins: tuple[str, ...], origin: str) -> dict[str, str]:
    """Headers for an answer that no middleware sees, to a request with this header Origin."""
    if not origins:
        return {}
    headers = {"Vary": "Origin"}
    if origin and (ANY in origins or origin in origins):
        headers |= {
            "Access-Control-Allow-Origin": ANY if ANY in origins else origin,
            "Access-Control-Expose-Headers": ", ".join(EXPOSED),
        }
    return headers
