"""Refuses classes of which too few pictures can be read, with the true counts, all in one message."""

from collections import Counter
from collections.abc import Sequence

from training.data.folders import MAX_LISTED, Tree, by_suffix, printable
from training.data.images import Reading
from training.errors import DataError


def require_classes(trees: Sequence[Tree], reading: Reading) -> int | None:
    """-> how many pictures came as the training part, None for one tree. Raises DataError for every class
    that has too few to train on, all in one message.
    """
    first, divided = trees[0], len(trees) > 1
    kept = [place for place in reading.places.tolist() if place < len(first.samples)]
    readable = Counter(first.samples[place].label for place in kept)
    least = 1 if divided else 2
    poor = [label for label in range(len(first.classes)) if readable[label] < least]
    if poor:
        number = "a picture" if divided else "two pictures"
        lines = [_too_few(first, label, readable[label], reading.skipped) for label in poor[:MAX_LISTED]]
        more = f", and {len(poor) - MAX_LISTED:,} more classes" if len(poor) > MAX_LISTED else ""
        raise DataError(
            f"{printable(first.root)}: each class needs {number} that can be read; {', '.join(lines)}{more}"
        )
    if divided and len(kept) == len(reading.places):
        raise DataError(
            f"{printable(trees[1].root)} has no picture that can be read{_because(reading.skipped[-1:])}"
        )
    return len(kept) if divided else None


def _too_few(tree: Tree, label: int, readable: int, skipped: Sequence[str]) -> str:
    """Say what there is in a class instead of pictures."""
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
        instead.append(f"files that are no pictures: {by_suffix(others)}")
    return f"class {name!r} has {readable}" + (f" ({'; '.join(instead)})" if instead else "")


def _because(lines: Sequence[str]) -> str:
    return f", such as {lines[0]}" if lines else ""
