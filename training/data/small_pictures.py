"""Load sets of small pictures into memory, to pre-train the base network."""

from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from contract.limits import usable_cores
from contract.picture import decode
from contract.preprocess import square
from contract.recipe import Recipe
from training.data.folders import Sample, find_trees
from training.data.images import MAX_PIXELS
from training.errors import DataError

SIDE: Final = 64  # pixels, of Tiny ImageNet
_CHUNK: Final = 500  # pictures per task of a decoding process


@dataclass(frozen=True)
class Pictures:
    """Pictures on the device: `squares` (N, SIDE, SIDE, 3) uint8 and `labels` (N,) int64."""

    squares: Tensor
    labels: Tensor


@dataclass(frozen=True)
class PictureSet:
    """One data set; the network's outputs from `first` on are its classes."""

    name: str
    classes: tuple[str, ...]
    first: int
    train: Pictures
    val: Pictures

    @property
    def outputs(self) -> slice:
        """The network's outputs that are classes of this set."""
        return slice(self.first, self.first + len(self.classes))


def load_sets(folders: Sequence[Path], device: torch.device) -> list[PictureSet]:
    """Read every picture of every set onto `device`. Raises DataError, and ImageError for a bad picture."""
    sets: list[PictureSet] = []
    for folder in folders:
        _parts, trees = find_trees(folder)
        classes = trees[0].classes
        first = sum(len(picture_set.classes) for picture_set in sets)
        if len(trees) < 2:
            raise DataError(f"{folder} has no train/ and val/; both are needed")
        train, val = (_read(tree.samples, device) for tree in trees)
        sets.append(PictureSet(folder.resolve().name, classes, first, train, val))
    return sets


def _read(samples: Sequence[Sample], device: torch.device) -> Pictures:
    recipe = Recipe("for training alone", SIDE, SIDE, scaled_jpeg=False)
    paths = [sample.path for sample in samples]
    chunks = [paths[start : start + _CHUNK] for start in range(0, len(paths), _CHUNK)]
    with ProcessPoolExecutor(usable_cores()) as pool:
        squares = np.concatenate(list(pool.map(partial(_squares, recipe=recipe), chunks)))
    labels = torch.tensor([sample.label for sample in samples])
    return Pictures(torch.from_numpy(squares).to(device), labels.to(device))


def _squares(paths: Sequence[Path], recipe: Recipe) -> NDArray[np.uint8]:
    return np.stack([square(decode(path.read_bytes(), recipe, MAX_PIXELS), recipe) for path in paths])
