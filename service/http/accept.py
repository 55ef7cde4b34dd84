"""Parse the preferences in the headers Accept and Accept-Encoding (RFC 9110, 12.4.2 and 12.5)."""

import re
from collections.abc import Iterator
from typing import Final, NamedTuple

_WEIGHT: Final = re.compile(r"0(\.\d{0,3})?|1(\.0{0,3})?")


class Preference(NamedTuple):
    """One entry of an Accept header. Its name and the names of its parameters are in lower case."""

    name: str
    parameters: dict[str, str]
    weight: float  # 0: not acceptable


def preferences(header: str) -> Iterator[Preference]:
    """Yield the entries of a header in order; skip those without a name or with an invalid weight."""
    for part in header.split(","):
        name, *rest = (piece.strip() for piece in part.split(";"))
        pairs = (piece.partition("=") for piece in rest)
        parameters = {key.strip().lower(): value.strip().strip('"') for key, _, value in pairs}
        weight = parameters.pop("q", "1")
        if name and _WEIGHT.fullmatch(weight):
            yield Preference(name.lower(), parameters, float(weight))


def accepts_gzip(accept_encoding: str) -> bool:
    """Return whether gzip is acceptable and weighs at least as much as no compression."""
    weights = {coding.name: coding.weight for coding in preferences(accept_encoding)}
    gzip = weights.get("gzip", weights.get("x-gzip", weights.get("*", 0)))
    return gzip > 0 and gzip >= weights.get("identity", 0)
