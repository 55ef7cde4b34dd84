"""The split of runs that record no photographs: drawn by the seed, from the names of all files."""

from collections.abc import Mapping
from pathlib import Path
from random import Random
from typing import Any

from training.folders import DataError, Sample, Tree, printable


def held_out(tree: Tree, data: Path, run: Mapping[str, Any]) -> tuple[list[Sample], bool] | None:
    """Find what such a run set aside of one tree, and whether the others are as many as it was trained on;
    None if it didn't split a tree of this name. With other numbers, it may be another tree.
    """
    split = run.get("split")
    if not split or tree.root != data or data.resolve().name != run["data"]:
        return None
    train, val = _divide(tree, split)
    return val, len(train) == run.get("images")


def trained_on(tree: Tree, data: Path, run: Mapping[str, Any]) -> list[Sample]:
    """Find what such a run was trained on; nothing if `data` isn't it."""
    if tree.root != data:
        return list(tree.samples)
    split = run.get("split")
    return _divide(tree, split)[0] if split and data.resolve().name == run["data"] else []


def _divide(tree: Tree, split: Mapping[str, Any]) -> tuple[list[Sample], list[Sample]]:
    """Files that are no pictures took part in the draw. Raises DataError."""
    found = {sample.path.relative_to(tree.root).parts[0] for sample in tree.samples}
    if found != set(tree.classes):
        raise DataError(f"{printable(tree.root)} has other class folders than when it was trained on")
    train: list[Sample] = []
    val: list[Sample] = []
    pictures = set(tree.samples)
    for label, name in enumerate(tree.classes):
        files = sorted(sample for sample in (*tree.samples, *tree.others) if sample.label == label)
        Random(f"{split['seed']}/{name}").shuffle(files)
        count = max(1, round(len(files) * split["val_fraction"]))
        val += [sample for sample in files[:count] if sample in pictures]
        train += [sample for sample in files[count:] if sample in pictures]
    return train, val
