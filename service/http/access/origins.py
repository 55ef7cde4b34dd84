"""CORS_ORIGINS: pages from elsewhere whose scripts may read answers, as browsers name them in Origin."""

from typing import Final

from service.parsers import ANY

# What scripts may read of an answer beside its body and its type.
EXPOSED: Final = (
    "Retry-After",
    "X-Request-ID",
    "X-Label",
    "Server-Timing",
    "Inference-Header-Content-Length",
)


def cors_headers(origins: tuple[str, ...], origin: str) -> dict[str, str]:
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
