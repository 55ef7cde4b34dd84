"""Describe a data set before training starts: counts, skipped files, and warnings."""

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Final

import torch
from torch import Tensor

from training.data.folders import MAX_LISTED, listed, looks_like_split
from training.data.prepared import Dataset

MAX_ROWS: Final = 30
FEW: Final = 10  # warn about classes with fewer pictures
UNEQUAL: Final = 20  # warn if the largest class is so many times the smallest
UNREADABLE: Final = 0.1  # warn if a larger share of the pictures cannot be read


def overview(dataset: Dataset) -> str:
    """Format the table of classes, the skipped files, the counts and the warnings, as lines of text."""
    lines = [*_table(dataset), *skipped_lines(dataset), counts(dataset)]
    return "\n".join([*lines, *(f"warning: {warning}" for warning in warnings(dataset))])


def counts(dataset: Dataset) -> str:
    """Count the images, classes and skipped files in one line."""
    return (
        f"{len(dataset.train)} images to train on, {len(dataset.val)} to validate on, "
        f"{len(dataset.classes)} classes, {len(dataset.skipped)} skipped"
    )


def skipped_lines(dataset: Dataset) -> list[str]:
    """List the first unreadable pictures, and count the files that are not pictures."""
    lines = list_skipped(dataset.skipped)
    return [*lines, f"files that are not pictures: {dataset.others}"] if dataset.others else lines


def list_skipped(skipped: Sequence[str]) -> list[str]:
    """List the first MAX_LISTED unreadable pictures, and count the others."""
    lines = [f"skipped {problem}" for problem in skipped[:MAX_LISTED]]
    more = len(skipped) - MAX_LISTED
    return [*lines, f"skipped {more:,} more that cannot be read"] if more > 0 else lines


def _table(dataset: Dataset) -> list[str]:
    train, val = _counts(dataset)
    rows = min(len(dataset.classes), MAX_ROWS)
    width = max(5, *(len(name) for name in dataset.classes[:rows]))
    lines = [f"{'class':{width}}  train  validation"]
    for name, trained, held_out in zip(dataset.classes[:rows], train, val, strict=False):
        lines.append(f"{name:{width}} {trained:6,} {held_out:11,}")
    if more := len(dataset.classes) - rows:
        lines.append(f"and {more:,} more classes, {sum(train[rows:]):,} and {sum(val[rows:]):,}")
    return lines


def _counts(dataset: Dataset) -> tuple[list[int], list[int]]:
    """Count the training and the validation pictures of each class."""
    train, val = (_count(split.labels, dataset) for split in (dataset.train, dataset.val))
    return train, val


def _count(labels: Tensor, dataset: Dataset) -> list[int]:
    numbers: list[int] = torch.bincount(labels, minlength=len(dataset.classes)).tolist()
    return numbers


def warnings(dataset: Dataset) -> Iterator[str]:
    """Yield a sentence for each suspicious property of the data set."""
    yield from dataset.warnings
    classes = dataset.classes
    train, val = _counts(dataset)
    if splits := [name for name in classes if looks_like_split(name)]:
        yield (
            f"{listed(splits)}: named like parts of a data set, but used as classes, because pictures are "
            "directly in them"
        )
    if alike := _alike(classes):
        yield f"classes whose names differ only in case: {listed(alike)}"
    if none := [name for name, count in zip(classes, val, strict=True) if not count]:
        yield f"no validation photographs of {listed(none)}: accuracy on them is not measured"
    both = [sum(pair) for pair in zip(train, val, strict=True)]
    if few := [f"{name} ({count})" for name, count in zip(classes, both, strict=True) if count < FEW]:
        yield f"fewer than {FEW} pictures of {listed(few)}: add more"
    most, least = max(train), min(train)
    if most >= UNEQUAL * least:
        large, small = classes[train.index(most)], classes[train.index(least)]
        yield (
            f"{most:,} pictures to train on of {large} and {least:,} of {small}: "
            f"answers will lean towards {large}"
        )
    yield from _copies(dataset)
    unreadable = len(dataset.skipped)
    if unreadable > UNREADABLE * (unreadable + sum(both)):
        total = unreadable + sum(both)
        yield f"{unreadable:,} of {total:,} pictures cannot be read, such as {dataset.skipped[0]}"


def _alike(classes: Sequence[str]) -> list[str]:
    counts = Counter(name.casefold() for name in classes)
    return [name for name in classes if counts[name.casefold()] > 1]


def _copies(dataset: Dataset) -> Iterator[str]:
    train, val = dataset.train, dataset.val
    if copies := int(torch.isin(val.digests, train.digests).sum()):
        yield f"{copies:,} of {len(val):,} validation photographs are copies of training photographs"
    digests, labels = torch.cat([train.digests, val.digests]), torch.cat([train.labels, val.labels])
    pairs = Counter(digest for digest, _label in set(zip(digests.tolist(), labels.tolist(), strict=True)))
    if several := sum(count > 1 for count in pairs.values()):
        yield f"{several:,} pictures lie in more than one class each, as exact copies"
