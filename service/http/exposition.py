"""Encode /metrics as Prometheus text or OpenMetrics, whichever the Accept header prefers."""

from typing import Final

from prometheus_client import generate_latest
from prometheus_client.openmetrics.exposition import generate_latest as generate_openmetrics

from service.http.accept import preferences
from service.observability.metrics import Encode

TEXT: Final = "text/plain"
OPENMETRICS: Final = "application/openmetrics-text"
# Every scraper reads this one: used without a preference, or if the format asked for is unknown.
DEFAULT: Final = (TEXT, "0.0.4")
ENCODERS: Final[dict[tuple[str, str], Encode]] = {
    DEFAULT: generate_latest,
    (TEXT, "1.0.0"): generate_latest,
    (OPENMETRICS, "1.0.0"): generate_openmetrics,
}
# Versions for media types that name none.
DEFAULT_VERSIONS: Final = {"*/*": "0.0.4", "text/*": "0.0.4", TEXT: "0.0.4", OPENMETRICS: "1.0.0"}


def format_for(accept: str) -> tuple[Encode, str]:
    """Return the encoder for a header Accept, and the content type of what it writes."""
    max_weight, chosen = 0.0, DEFAULT
    for preference in preferences(accept):
        media_type = TEXT if preference.name in {"*/*", "text/*"} else preference.name
        version = preference.parameters.get("version", DEFAULT_VERSIONS.get(preference.name, ""))
        if (media_type, version) in ENCODERS and preference.weight > max_weight:
            max_weight, chosen = preference.weight, (media_type, version)
    media_type, version = chosen
    return ENCODERS[chosen], f"{media_type}; version={version}; charset=utf-8"
