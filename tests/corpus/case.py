from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Case:
    """`large`: takes a second or so to make, or megabytes."""

    name: str
    make: Callable[[], bytes]
    large: bool = False
