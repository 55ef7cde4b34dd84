from collections.abc import Callable
from dataclasses import dataclass

PIXELS = "pixels"  # of `expected`: it is answered


@dataclass(frozen=True)
class Case:
    """`large`: takes a second or so to make, or megabytes. `expected`: what is to come of it, `PIXELS` or
    a pattern in the message of the refusal; None where it may be either.
    """

    name: str
    make: Callable[[], bytes]
    large: bool = False
    expected: str | None = None
