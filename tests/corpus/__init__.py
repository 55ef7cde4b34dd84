"""Make a reproducible corpus of hostile image files: broken, enormous, deceptive, unusual.

    python -m tests.corpus DIR      writes all of them

A file is made only when it is used, so that a sample of the corpus costs little.
"""

import random
from collections.abc import Iterator

from tests.corpus import bombs, boxes, broken, deceit, groups, kinds, odd, profiles, strips
from tests.corpus.case import Case


def cases() -> list[Case]:
    """Return every case in a fixed order; names are unique."""
    families = (broken, odd, deceit, bombs, profiles, boxes, groups, strips, kinds)
    return [case for family in families for case in family.cases()]


def corpus() -> Iterator[tuple[str, bytes]]:
    """Yield name and bytes of every case."""
    for case in cases():
        yield case.name, case.make()


def sample(count: int, seed: int) -> Iterator[tuple[str, bytes]]:
    """Yield name and bytes of `count` different cases that are made quickly, chosen by `seed`."""
    quick = [case for case in cases() if not case.large]
    for case in random.Random(seed).sample(quick, count):
        yield case.name, case.make()
