"""A folder per class -> every picture's central square, decoded once and held in memory as uint8."""

import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from contract.preprocess import ImageError, Recipe, decode, square

MAX_PIXELS = 200_000_000  # one's own photographs may be larger than what a server takes from strangers

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


def load_split(samples: Sequence[Sample], recipe: Recipe, title: str) -> Split:
    """Decodes with one thread per core. Unreadable files are left out and listed; DataError if all are,
    if a class loses its last picture, or if the pixels would not fit in memory.
    """
    needed = len(samples) * recipe.resize * recipe.resize * 3
    if needed > 0.8 * (memory := _memory()):
        raise DataError(
            f"{len(samples)} images take {needed / 1e9:.1f} GB in memory, and there are "
            f"{memory / 1e9:.1f}; train on fewer images or on a larger machine"
        )
    squares = torch.empty(len(samples), recipe.resize, recipe.resize, 3, dtype=torch.uint8)

    def load(index: int) -> str | None:
        try:
            picture = decode(samples[index][0].read_bytes(), recipe, MAX_PIXELS)
            squares[index] = torch.from_numpy(square(picture, recipe).copy())
        except (ImageError, OSError) as error:
            return str(error)
        return None

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        loaded = pool.map(load, range(len(samples)))
        problems = list(tqdm(loaded, title, len(samples), unit="img", leave=False, disable=None))
    kept = [i for i, problem in enumerate(problems) if problem is None]
    lost = {label for _, label in samples} - {samples[i][1] for i in kept}
    if lost:
        folder = next(path.parent for path, label in samples if label in lost)
        raise DataError(f"no image in {folder} can be read: {next(filter(None, problems))}")
    return Split(
        squares if len(kept) == len(samples) else squares[kept],
        torch.tensor([samples[i][1] for i in kept]),
        tuple(f"{samples[i][0]}: {problem}" for i, problem in enumerate(problems) if problem),
    )


def _memory() -> int:
    """Bytes that this machine has, or the container it is in."""
    physical = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    try:
        return min(physical, int(Path("/sys/fs/cgroup/memory.max").read_text()))
    except (OSError, ValueError):  # no cgroup, or its limit is "max"
        return physical


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
