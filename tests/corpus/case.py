"""Define one case of the corpus."""

from collections.abc import Callable
from dataclasses import dataclass

PIXELS = "pixels"  # as `expected`: the file is decoded


@dataclass(frozen=True)
class Case:
    """A file of the corpus.

    `large`: making it takes about a second, or megabytes. `expected`: PIXELS, or a part of the error
    message; None where both are allowed.
    """

    name: str
    make: Callable[[], bytes]
    large: bool = False
    expected: str | None = None
