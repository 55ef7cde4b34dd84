"""Derive the seed of every random draw of a run from the run's seed and the epoch or step.

No random state is kept between steps, so a resumed run draws what an uninterrupted one would have drawn.
"""

from hashlib import blake2b

from torch import Generator

ORDER, AUGMENTATION, DROPOUT, BACKGROUND, DETAIL = range(5)  # independent streams of random numbers


def seed_of(seed: int, stream: int, index: int) -> int:
    """Derive a 64-bit seed from the run's `seed`, a `stream` and `index`, the epoch or the step.

    The three are hashed, because torch's CPU generator uses only the lowest 32 bits of a seed.
    """
    return int.from_bytes(blake2b(f"{seed}/{stream}/{index}".encode(), digest_size=8).digest())


def generator_of(seed: int, stream: int, index: int) -> Generator:
    """Make a CPU generator seeded with `seed_of`."""
    return Generator().manual_seed(seed_of(seed, stream, index))
