"""Division of one tree: the same fraction of each class, and no copy on both sides."""

from collections import Counter
from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from training.data.division import Earlier, divide
from training.errors import DataError

CLASSES = ("a", "b", "c")
NAMES = [f"{name}/{number}.jpg" for name in CLASSES for number in range(10)]
DIGESTS = torch.arange(30)


def held_out(
    names: Sequence[str],
    digests: Tensor = DIGESTS,
    fraction: float = 0.3,
    seed: int = 1,
    earlier: Earlier | None = None,
) -> set[str]:
    """Divide, check that nothing is lost or on both sides, and return the held-out names."""
    labels = torch.tensor([CLASSES.index(name[0]) for name in names])
    train, val = divide(names, labels, digests, CLASSES, fraction, seed, earlier)
    assert sorted(train.tolist() + val.tolist()) == list(range(len(names)))
    assert train.tolist() == sorted(train.tolist())
    assert set(labels[train].tolist()) == set(labels.tolist())
    assert not torch.isin(digests[val], digests[train]).any()
    return {names[row] for row in val.tolist()}


def test_the_seed_draws_the_same_fraction_of_every_class() -> None:
    held = held_out(NAMES)
    assert Counter(name[0] for name in held) == {"a": 3, "b": 3, "c": 3}
    assert held_out(NAMES) == held
    assert held_out(NAMES, seed=2) != held
    assert len(held_out(NAMES, fraction=0)) == 3
    assert len(held_out(NAMES, fraction=0.99)) == 27


def test_the_split_is_independent_of_other_classes_and_file_order() -> None:
    held = held_out(NAMES)
    assert held_out(NAMES[::-1], DIGESTS.flip(0)) == held
    assert held_out(NAMES[10:], DIGESTS[10:]) == {name for name in held if name[0] != "a"}


def test_copies_go_to_one_side() -> None:
    digests = DIGESTS.clone()
    digests[12] = digests[3]  # across classes
    digests[25:30] = digests[24]  # more copies than are held out
    for seed in range(20):
        held = held_out(NAMES, digests, seed=seed)
        assert ("a/3.jpg" in held) == ("b/2.jpg" in held)
        assert "c/5.jpg" not in held
    all_copies = torch.tensor([1, 1, 1, 2, 2, 2, 3, 3, 4, 4])
    assert len(held_out(NAMES[:10], all_copies, fraction=0.1)) == 2, "the fewest copies possible"


def test_photographs_of_an_earlier_run_stay_on_their_side() -> None:
    before = held_out(NAMES)
    rows = [NAMES.index(name) for name in before]
    earlier = Earlier("first", DIGESTS[rows], DIGESTS[[i for i in range(30) if i not in rows]])
    assert held_out(NAMES, seed=7, earlier=earlier) == before
    assert held_out(NAMES, fraction=0.8, earlier=earlier) == before, (
        "training photographs are never held out"
    )
    more = [*NAMES, *(f"a/new{number}.jpg" for number in range(5))]
    grown = held_out(more, torch.arange(35), fraction=0.4, seed=7, earlier=earlier)
    assert before < grown
    assert {name[:5] for name in grown - before} == {"a/new"}
    nothing = Earlier("first", DIGESTS[:10], DIGESTS[10:])
    with pytest.raises(
        DataError, match=r"class 'a' has nothing to train on: all of its 10 .* held out by first"
    ):
        held_out(NAMES, earlier=nothing)
