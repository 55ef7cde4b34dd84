"""Split photographs into training and held-out ones, keeping copies of a picture together."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from training.errors import DataError


@dataclass(frozen=True)
class Earlier:
    """The photographs, by digest (N,) int64, of an earlier run whose weights a new run takes.

    `name` is for messages. `itself`: it is the same run, resumed. Older runs and model files do not record
    everything that they were trained on: then `unseen` has the photographs known not to be trained on.
    `unseen` is None where `trained_on` is complete.
    """

    name: str
    held_out: Tensor
    trained_on: Tensor
    unseen: Tensor | None = None
    itself: bool = False


def divide(
    names: Sequence[str],
    labels: Tensor,
    digests: Tensor,
    classes: Sequence[str],
    fraction: float,
    seed: int,
    earlier: Earlier | None = None,
) -> tuple[Tensor, Tensor]:
    """Hold out the same fraction of every class -> the training rows and the held-out rows, ascending.

    Which pictures of a class are held out depends only on `seed` and their names, so that other files do
    not change it. All copies of a picture go to one side, and what `earlier` held out or was trained on
    stays on its side. Raises DataError if a class has nothing left to train on.
    """
    held_out: dict[int, bool] = {}  # digest -> side
    if earlier is not None:
        held_out |= dict.fromkeys(earlier.held_out.tolist(), True)
        held_out |= dict.fromkeys(
            earlier.trained_on.tolist(), False
        )  # later, so that what is in both counts as trained on
    all_digests = digests.tolist()
    members: list[list[int]] = [[] for _ in classes]
    for row, label in enumerate(labels.tolist()):
        members[label].append(row)
    for rows in members:
        _divide_class(
            sorted(rows, key=lambda row: _order(seed, names[row])), all_digests, fraction, held_out
        )
    sides = torch.tensor([held_out[digest] for digest in all_digests])
    for name, rows in zip(classes, members, strict=True):
        if rows and sides[rows].all():
            whose = f"were held out by {earlier.name}" if earlier else "have copies in other classes"
            raise DataError(
                f"class {name!r} has nothing to train on: all of its {len(rows)} pictures {whose}; add "
                "other pictures"
            )
    return (~sides).nonzero().flatten(), sides.nonzero().flatten()


def _order(seed: int, name: str) -> bytes:
    return hashlib.blake2b(f"{seed}/{name}".encode(), digest_size=16).digest()


def _divide_class(
    rows: Sequence[int], digests: Sequence[int], fraction: float, held_out: dict[int, bool]
) -> None:
    """Choose the side of each picture of a class, in the order of `rows`, unless `held_out` has it."""
    copies: dict[int, int] = {}
    for row in rows:
        copies[digests[row]] = copies.get(digests[row], 0) + 1
    target = min(len(rows) - 1, max(1, round(len(rows) * fraction)))
    held = sum(count for digest, count in copies.items() if held_out.get(digest))
    free = [digest for digest in copies if digest not in held_out]
    for digest in free:
        held_out[digest] = held + copies[digest] <= target
        held += copies[digest] if held_out[digest] else 0
    smallest = min(free, key=lambda digest: copies[digest], default=None)
    if held == 0 and smallest is not None and copies[smallest] < len(rows):
        held_out[smallest] = True  # every picture has more copies than the target
