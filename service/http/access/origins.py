"""Build CORS headers: which origins' scripts may read answers (CORS_ORIGINS)."""

from typing import Final

from service.parsers import ANY

# Headers that scripts may read besides those that CORS always exposes.
EXPOSED: Final = (
    "Retry-After",
    "X-Request-ID",
    "X-Label",
    "Server-Timing",
    "Inference-Header-Content-Length",
)


def cors_headers(origins: tuple[str, ...], origin: str) -> dict[str, str]:
    """Return the CORS headers of an answer that bypasses the middleware, for the request's Origin."""
    if not origins:
        return {}
    headers = {"Vary": "Origin"}
    if origin and (ANY in origins or origin in origins):
        headers |= {
            "Access-Control-Allow-Origin": ANY if ANY in origins else origin,
            "Access-Control-Expose-Headers": ", ".join(EXPOSED),
        }
    return headers
