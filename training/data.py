"""A folder per class -> every picture's central square, decoded once, as uint8."""

import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from contract.limits import memory_limit, usable_cores
from contract.picture import ImageError, decode
from contract.preprocess import square
from contract.recipe import Recipe

MAX_PIXELS = 200_000_000  # one's own photographs may be larger than what a server takes from strangers

_AHEAD = 512  # squares that may wait for the one before them: 100 MB

Sample = tuple[Path, int]  # a file and the index of its class


class DataError(ValueError):
    """The folder cannot be trained on; the message names what is missing and where."""


@dataclass(frozen=True)
class Split:
    """`squares` (N, resize, resize, 3) uint8 by the recipe, `labels` (N,) int64, and `skipped`: the
    files that cannot be read, each with the reason.
    """

    squares: Tensor
    labels: Tensor
    skipped: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.labels)


def find_samples(
    data: Path, val_fraction: float, seed: int
) -> tuple[tuple[str, ...], list[Sample], list[Sample]]:
    """-> class names in the order of their indices, training files, validation files.

    `data` holds `train/` and `val/`, or one tree of class folders that is split here: the same
    fraction of every class, drawn with `seed`. Raises DataError.
    """
    if (data / "train").is_dir():
        classes = class_names(data / "train")
        train = _samples(data / "train", classes)
        return classes, train, validation_samples(data, classes)
    classes = class_names(data)
    train, val = [], []
    for index, name in enumerate(classes):
        files = [path for path, _ in _samples(data, (name,))]
        Random(f"{seed}/{name}").shuffle(files)
        count = max(1, round(len(files) * val_fraction))
        if count >= len(files):
            raise DataError(f"class {name!r} has {len(files)} images; two are the least to split")
        val += [(path, index) for path in files[:count]]
        train += [(path, index) for path in files[count:]]
    return classes, train, val


def held_out_samples(data: Path, classes: Sequence[str], run: Mapping[str, Any]) -> list[Sample]:
    """What to measure a trained network on, given the provenance of its `run`.

    If that split one tree of this name, the part that it set aside; else as `validation_samples`.
    """
    split = run.get("split")
    if split and data.resolve().name == run["data"] and not (data / "val").is_dir():
        found, _train, val = find_samples(data, **split)
        if found != tuple(classes):
            raise DataError(f"{data} has other class folders than when it was trained on")
        return val
    return validation_samples(data, classes)


def training_samples(data: Path, run: Mapping[str, Any]) -> list[Sample]:
    """What a network was trained on, given the provenance of its `run`; labels count within `data`."""
    if (data / "train").is_dir():
        return _samples(data / "train", class_names(data / "train"))
    split = run.get("split")
    if not split or data.resolve().name != run["data"]:
        raise DataError(f"{data} is not what the run was trained on; its training images are needed")
    return find_samples(data, **split)[1]


def validation_samples(data: Path, classes: Sequence[str]) -> list[Sample]:
    """`data`/val, or `data` itself if it has none, its folders matched to `classes` by name."""
    root = data / "val" if (data / "val").is_dir() else data
    if (data / "train").is_dir() and root == data:
        raise DataError(f"{data} has train/ but no val/; add one, or pass train/ itself to split it")
    names = _folders(root)
    for name in names:
        if name not in classes:
            raise DataError(f"class {name!r} in {root} is not among those trained: {', '.join(classes)}")
    if not names:
        raise DataError(f"{root} has no class folders; expected one with a folder of images per class")
    return _samples(root, names, classes)


def class_names(root: Path) -> tuple[str, ...]:
    """The folders below `root`, sorted, hidden ones left out; DataError if there are fewer than two."""
    names = _folders(root)
    if len(names) < 2:
        raise DataError(f"{root} has {len(names)} class folders; at least two are needed")
    return names


def _folders(root: Path) -> tuple[str, ...]:
    if not root.is_dir():
        raise DataError(f"{root} is no folder; expected one with a folder of images per class")
    return tuple(sorted(p.name for p in root.iterdir() if p.is_dir() and not p.name.startswith(".")))


def _samples(root: Path, names: Sequence[str], classes: Sequence[str] | None = None) -> list[Sample]:
    """Every file below root/name, labelled by the place of its name in `classes` (default `names`)."""
    samples = []
    for name in names:
        files = sorted(
            p
            for p in (root / name).rglob("*")
            if p.is_file() and not any(part.startswith(".") for part in p.relative_to(root).parts)
        )
        if not files:
            raise DataError(f"class {name!r} in {root} is empty; add images or remove the folder")
        index = (classes or names).index(name)
        samples += [(path, index) for path in files]
    return samples


def load_split(samples: Sequence[Sample], recipe: Recipe, title: str, workers: int | None = None) -> Split:
    """Every picture in memory. Raises DataError as `read_squares` does, or if they would not fit."""
    needed = len(samples) * recipe.resize * recipe.resize * 3
    physical = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if needed > 0.8 * (memory := min(physical, memory_limit())):
        raise DataError(
            f"{len(samples)} images take {needed / 1e9:.1f} GB in memory, and there are "
            f"{memory / 1e9:.1f}; write them to a disk once with `prepare`, and train on what that wrote"
        )
    squares = torch.empty(len(samples), recipe.resize, recipe.resize, 3, dtype=torch.uint8)
    rows = iter(squares)
    labels, skipped = read_squares(samples, recipe, title, workers, lambda row: next(rows).copy_(row))
    return Split(squares[: len(labels)], labels, skipped)


def read_squares(
    samples: Sequence[Sample],
    recipe: Recipe,
    title: str,
    workers: int | None,
    keep: Callable[[Tensor], object],
) -> tuple[Tensor, tuple[str, ...]]:
    """Gives `keep` the square of every readable picture, in order; -> their labels and what was skipped.

    Decodes with `workers` threads, by default one per core. DataError if a class loses its last picture.
    """

    def load(sample: Sample) -> Tensor | str:
        try:
            picture = decode(sample[0].read_bytes(), recipe, MAX_PIXELS)
            return torch.from_numpy(square(picture, recipe).copy())
        except (ImageError, OSError) as error:
            return f"{sample[0]}: {error}"

    kept: list[int] = []
    skipped: list[str] = []
    with (
        ThreadPoolExecutor(workers or usable_cores()) as pool,
        tqdm(desc=title, total=len(samples), unit="img", leave=False, disable=None) as bar,
    ):
        for start in range(0, len(samples), _AHEAD):
            chunk = samples[start : start + _AHEAD]
            for (_path, label), loaded in zip(chunk, pool.map(load, chunk), strict=True):
                bar.update()
                if isinstance(loaded, str):
                    skipped.append(loaded)
                else:
                    keep(loaded)
                    kept.append(label)
    lost = {label for _, label in samples} - set(kept)
    if lost:
        folder = next(path.parent for path, label in samples if label in lost)
        reason = next(line for line in skipped if line.startswith(str(folder)))
        raise DataError(f"no image in {folder} can be read: {reason}")
    return torch.tensor(kept), tuple(skipped)


def central(squares: Tensor, recipe: Recipe) -> Tensor:
    """(N, resize, resize, 3) -> the crops (N, crop, crop, 3) in the middle."""
    margin = (recipe.resize - recipe.crop) // 2
    window = slice(margin, margin + recipe.crop)
    return squares[:, window, window]


def channel_statistics(squares: Tensor) -> tuple[Tensor, Tensor]:
    """-> the mean (3,) and the covariance (3, 3) of the RGB values on the scale 0 to 255, float64."""
    total, outer, count = torch.zeros(3).double(), torch.zeros(3, 3).double(), 0
    for batch in torch.split(squares, 64):
        values = batch.reshape(-1, 3).float()
        total += values.sum(0).double()
        outer += (values.T @ values).double()
        count += len(values)
    mean = total / count
    return mean, outer / count - mean[:, None] * mean
