"""Make small files that cost much memory or time to decode."""

from collections.abc import Iterator

from tests.corpus.bombs.large import LARGE
from tests.corpus.bombs.small import SMALL
from tests.corpus.case import Case


def cases() -> Iterator[Case]:
    for name, bomb in LARGE.items():
        yield Case(f"bomb-{name}", bomb, large=True)
    for name, bomb in SMALL.items():
        yield Case(f"bomb-{name}", bomb)
