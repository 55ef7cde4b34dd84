"""What a client prefers, by its headers Accept and Accept-Encoding (RFC 9110, 12.4.2 and 12.5)."""

import re
from collections.abc import Iterator
from typing import Final, NamedTuple

_WEIGHT: Final = re.compile(r"0(\.\d{0,3})?|1(\.0{0,3})?")


class Preference(NamedTuple):
    name: str  # in small letters, as are the names of parameters
    parameters: dict[str, str]
    weight: float  # 0: not acceptable


def preferences(header: str) -> Iterator[Preference]:
    """In their order; those whose weight is none are left out."""
    for part in header.split(","):
        name, *rest = (piece.strip() for piece in part.split(";"))
        pairs = (piece.partition("=") for piece in rest)
        parameters = {key.strip().lower(): value.strip().strip('"') for key, _, value in pairs}
        weight = parameters.pop("q", "1")
        if name and _WEIGHT.fullmatch(weight):
            yield Preference(name.lower(), parameters, float(weight))


def takes_gzip(accept_encoding: str) -> bool:
    """And does not like it less than what is not compressed."""
    weights = {each.name: each.weight for each in preferences(accept_encoding)}
    gzip = weights.get("gzip", weights.get("x-gzip", weights.get("*", 0)))
    return gzip > 0 and gzip >= weights.get("identity", 0)
