"""Load pictures of none of the classes: the background that a network is trained or compared with."""

from pathlib import Path
from random import Random
from typing import Final

from contract.recipe import Recipe
from training.data.folders import Sample, pictures_below, printable
from training.data.images import Split, load_pictures
from training.errors import DataError

MAX_PICTURES: Final = 2_000  # in memory, 0.4 GB


def load_background(
    folder: Path, recipe: Recipe, title: str, workers: int | None = None, count: int = MAX_PICTURES
) -> Split:
    """Load at most `count` pictures from anywhere below `folder`, always the same; their labels are -1.

    Unreadable files are left out. Raises DataError if no picture is left.
    """
    if not folder.is_dir():
        raise DataError(f"{printable(folder)} is not a folder; {title} needs one with pictures")
    paths = pictures_below(folder)
    chosen = sorted(Random(0).sample(paths, min(count, len(paths))))
    samples = [Sample(path, -1, printable(path.relative_to(folder))) for path in chosen]
    split, _reading = load_pictures(samples, recipe, title, workers)
    if not len(split):
        raise DataError(f"{printable(folder)} has no picture that can be read; {title} needs some")
    return split
