"""Pictures as an attacker sends them, the same ones every time: broken, enormous, deceitful, odd.

    python -m tests.corpus DIR      writes them all

Nothing is drawn or compressed before it is asked for, so that a sample of the corpus costs little.
"""

import random
from collections.abc import Iterator

from tests.corpus import bombs, boxes, broken, deceit, groups, kinds, odd, profiles, strips
from tests.corpus.case import Case


def cases() -> list[Case]:
    """Every case, in a fixed order; names are unique."""
    families = (broken, odd, deceit, bombs, profiles, boxes, groups, strips, kinds)
    return [case for family in families for case in family.cases()]


def corpus() -> Iterator[tuple[str, bytes]]:
    """All of it: name and bytes."""
    for case in cases():
        yield case.name, case.make()


def sample(count: int, seed: int) -> Iterator[tuple[str, bytes]]:
    """`count` of those that are made quickly, without repetition; a seed gives the same ones again."""
    quick = [case for case in cases() if not case.large]
    for case in random.Random(seed).sample(quick, count):
        yield case.name, case.make()
