"""Fail, with one message, if any class has too few readable pictures."""

from collections import Counter
from collections.abc import Sequence

from training.data.folders import MAX_LISTED, Tree, by_suffix, printable
from training.data.images import Reading
from training.errors import DataError


def require_classes(trees: Sequence[Tree], reading: Reading) -> int | None:
    """Count the pictures of the training part -> None for one tree.

    Raises DataError with one message about all classes that have too few readable pictures.
    """
    first, divided = trees[0], len(trees) > 1
    places = [place for place in reading.places.tolist() if place < len(first.samples)]
    readable = Counter(first.samples[place].label for place in places)
    minimum = 1 if divided else 2
    too_few = [label for label in range(len(first.classes)) if readable[label] < minimum]
    if too_few:
        number = "a picture" if divided else "two pictures"
        lines = [_too_few(first, label, readable[label], reading.skipped) for label in too_few[:MAX_LISTED]]
        more = f", and {len(too_few) - MAX_LISTED:,} more classes" if len(too_few) > MAX_LISTED else ""
        raise DataError(
            f"{printable(first.root)}: each class needs {number} that can be read; {', '.join(lines)}{more}"
        )
    if divided and len(places) == len(reading.places):
        raise DataError(
            f"{printable(trees[1].root)} has no picture that can be read{_because(reading.skipped[-1:])}"
        )
    return len(places) if divided else None


def _too_few(tree: Tree, label: int, readable: int, skipped: Sequence[str]) -> str:
    """Describe what a class has instead of enough readable pictures."""
    name, files = tree.classes[label], [sample for sample in tree.samples if sample.label == label]
    others = [sample.name for sample in tree.others if sample.label == label]
    if not files and not others:
        return f"class {name!r} is empty: add images or remove the folder"
    instead = []
    if unreadable := len(files) - readable:
        folder = f"{printable(tree.root / name)}/"
        reason = [line for line in skipped if line.startswith(folder)][:1]
        instead.append(f"{unreadable:,} cannot be read{_because(reason)}")
    if others:
        instead.append(f"files that are not pictures: {by_suffix(others)}")
    return f"class {name!r} has {readable}" + (f" ({'; '.join(instead)})" if instead else "")


def _because(lines: Sequence[str]) -> str:
    return f", such as {lines[0]}" if lines else ""
