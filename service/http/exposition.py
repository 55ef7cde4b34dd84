"""The formats in which metrics are written, and which of them a client asks for."""

from typing import Final

from prometheus_client import generate_latest
from prometheus_client.openmetrics.exposition import generate_latest as generate_openmetrics

from service.http.accept import preferences
from service.observability.metrics import Encode

TEXT: Final = "text/plain"
OPENMETRICS: Final = "application/openmetrics-text"
# What is written without a preference, or where there is no such format: everything that scrapes reads it.
DEFAULT: Final = (TEXT, "0.0.4")
ENCODERS: Final[dict[tuple[str, str], Encode]] = {
    DEFAULT: generate_latest,
    (TEXT, "1.0.0"): generate_latest,
    (OPENMETRICS, "1.0.0"): generate_openmetrics,
}
VERSIONS: Final = {
    "*/*": "0.0.4",
    "text/*": "0.0.4",
    TEXT: "0.0.4",
    OPENMETRICS: "1.0.0",
}  # where none is named


def format_for(accept: str) -> tuple[Encode, str]:
    """-> how metrics are written for a header Accept, and the content type of that."""
    best, found = 0.0, DEFAULT
    for each in preferences(accept):
        kind = TEXT if each.name in {"*/*", "text/*"} else each.name
        wanted = kind, each.parameters.get("version", VERSIONS.get(each.name, ""))
        if wanted in ENCODERS and each.weight > best:
            best, found = each.weight, wanted
    kind, version = found
    return ENCODERS[found], f"{kind}; version={version}; charset=utf-8"
