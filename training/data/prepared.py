"""Load the data set of a run from photographs or from a prepared folder; write prepared folders.

A prepared folder holds prepared.json, pictures.npz (labels and digests) and pixels (all squares, raw
uint8). The pixels are memory-mapped: a set may be larger than memory, the processes of one machine share
the pages, and reading an image copies 196 kB.
"""

import json
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor

from contract.recipe import Recipe
from training.config import Config
from training.data.division import Earlier, divide
from training.data.folders import Sample, by_suffix, find_trees, printable
from training.data.images import Reading, Split, channel_statistics, load_pictures, read_squares, split_of
from training.data.readable import require_classes
from training.errors import DataError

INDEX: Final = "prepared.json"
FORMAT: Final = 2
# The files that an interrupted `prepare` leaves.
_BEGUN: Final = {f"{INDEX}.partial", "pixels", "pictures.npz"}


@dataclass(frozen=True)
class Dataset:
    """The training and validation pictures of a run.

    `mean` (3,) and `covariance` (3, 3) are those of the training set's RGB values, 0 to 255, float64.
    `split` says how one tree was divided; None if it came divided. `skipped` has a line with the reason for
    each unreadable picture, `others` counts the files that are not pictures. `trained_before` are the
    digests of the photographs that the run which this one starts from was trained on; if that is
    `unrecorded`, `val` may include some of them. `background` are pictures of none of the classes.
    """

    name: str
    classes: tuple[str, ...]
    split: dict[str, Any] | None
    mean: Tensor
    covariance: Tensor
    train: Split
    val: Split
    skipped: tuple[str, ...]
    others: str
    warnings: tuple[str, ...]
    trained_before: Tensor
    unrecorded: bool
    background: Split | None = None


@dataclass(frozen=True)
class Pool:
    """All pictures of a data set, before they are divided into training and validation.

    Either the first `train` of them came as the training part, or `split` says how to divide one tree; the
    other of the two is None.
    """

    name: str
    classes: tuple[str, ...]
    split: dict[str, Any] | None
    train: int | None
    skipped: tuple[str, ...]
    others: str
    warnings: tuple[str, ...]
    pictures: Split

    def sides(self, earlier: Earlier | None = None) -> tuple[Tensor, Tensor]:
        """Divide the pictures -> the training rows and the held-out rows, ascending. Raises DataError."""
        pictures = self.pictures
        if self.split is None:
            return pictures.rows[: self.train], pictures.rows[self.train :]
        fraction, seed = self.split["val_fraction"], self.split["seed"]
        return divide(
            pictures.names, pictures.labels, pictures.digests, self.classes, fraction, seed, earlier
        )


def prepare(data: Path, out: Path, config: Config, workers: int | None = None) -> Dataset:
    """Scale every picture of `data` by `config.recipe`, and write them into the folder `out`.

    prepared.json is written last: a folder without it is incomplete and is written again. Raises DataError.
    """
    if out.is_dir() and {path.name for path in out.iterdir()} - _BEGUN:
        raise DataError(f"{out} is not empty; choose another folder")

    def write(samples: Sequence[Sample]) -> tuple[Split, Reading]:
        out.mkdir(parents=True, exist_ok=True)
        with (out / "pixels").open("wb") as file:
            reading = read_squares(
                samples, config.recipe, "prepare", workers, lambda square: file.write(square.numpy().data)
            )
        return split_of(_mapped(out, len(reading.places), config.recipe), samples, reading), reading

    pool = _read_pool(data, config, write)
    np.savez(out / "pictures.npz", labels=pool.pictures.labels, digests=pool.pictures.digests)
    mean, covariance = channel_statistics(pool.pictures.pixels, pool.sides()[0])
    index = {
        **{field.name: getattr(pool, field.name) for field in fields(Pool) if field.name != "pictures"},
        "names": pool.pictures.names,
        "format": FORMAT,
        "recipe": config.recipe.id,
        "resize": config.recipe.resize,
        "mean": mean.tolist(),
        "covariance": covariance.tolist(),
    }
    partial = out / f"{INDEX}.partial"
    partial.write_text(json.dumps(index, indent=1, ensure_ascii=False), encoding="utf-8")
    partial.replace(out / INDEX)
    return load_dataset(out, config)


def load_dataset(
    data: Path, config: Config, workers: int | None = None, earlier: Earlier | None = None
) -> Dataset:
    """Load a prepared folder, or one of photographs: train/ and val/, or one tree, which is split.

    In a split, what `earlier` held out or was trained on stays on its side. Raises DataError.
    """
    prepared = (data / INDEX).is_file()
    if prepared:
        pool, mean, covariance = open_prepared(data, config.recipe)
    else:
        pool = _read_pool(
            data, config, lambda samples: load_pictures(samples, config.recipe, "read", workers)
        )
    rows, held_out = pool.sides(earlier)
    if not prepared or not torch.equal(rows, pool.sides()[0]):
        mean, covariance = channel_statistics(pool.pictures.pixels, rows)
    train, val = pool.pictures.part(rows), pool.pictures.part(held_out)
    seen, unrecorded = _seen_before(val, earlier) if earlier else ((), False)
    return Dataset(
        pool.name,
        pool.classes,
        pool.split,
        mean,
        covariance,
        train,
        val,
        pool.skipped,
        pool.others,
        pool.warnings + seen,
        earlier.trained_on if earlier else torch.empty(0, dtype=torch.int64),
        unrecorded,
    )


def _read_pool(
    data: Path, config: Config, read: Callable[[Sequence[Sample]], tuple[Split, Reading]]
) -> Pool:
    """Find the pictures of a folder and `read` them. Raises DataError."""
    parts, trees = find_trees(data)
    pictures, reading = read([sample for tree in trees for sample in tree.samples])
    train = require_classes(trees, reading)
    split = {"val_fraction": config.val_fraction, "seed": config.seed} if parts.val is None else None
    others = by_suffix(sample.name for tree in trees for sample in tree.others)
    name, classes = printable(data.resolve().name), trees[0].classes
    return Pool(name, classes, split, train, reading.skipped, others, parts.warnings, pictures)


def _seen_before(val: Split, earlier: Earlier) -> tuple[tuple[str, ...], bool]:
    """Warn about validation pictures that `earlier` was trained on.

    -> warnings, and whether `val` may include photographs that `earlier` was trained on without record.
    """
    if earlier.itself:
        return (), False
    lines = []
    if seen := int(torch.isin(val.digests, earlier.trained_on).sum()):
        lines.append(
            f"{seen:,} of {len(val):,} validation photographs are among those that {earlier.name} was "
            "trained on: their accuracy is too optimistic"
        )
    unrecorded = earlier.unseen is not None and not torch.isin(val.digests, earlier.unseen).all()
    if unrecorded:
        lines.append(
            f"{earlier.name} does not record what it was trained on: validation may include some of it"
        )
    return tuple(lines), bool(unrecorded)


def open_prepared(data: Path, recipe: Recipe) -> tuple[Pool, Tensor, Tensor]:
    """Map a prepared folder -> its pictures, and the mean and covariance of the training ones.

    Raises DataError if it is damaged, of another version, or scaled by another recipe.
    """
    try:
        index: dict[str, Any] = json.loads((data / INDEX).read_text(encoding="utf-8"))
    except ValueError as error:
        raise DataError(f"{data / INDEX} is damaged: {error}; prepare the photographs again") from None
    if not isinstance(index, dict) or index.get("format") != FORMAT:
        raise DataError(f"{data} was prepared by another version; prepare the photographs again")
    if (index["recipe"], index["resize"]) != (recipe.id, recipe.resize):
        raise DataError(
            f"{data} was prepared by {index['recipe']} at {index['resize']} pixels; this needs {recipe.id} "
            f"at {recipe.resize}: prepare the photographs again, with the same --image-size"
        )
    try:
        with np.load(data / "pictures.npz") as arrays:
            labels, digests = (torch.from_numpy(arrays[key]) for key in ("labels", "digests"))
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise DataError(f"{data / 'pictures.npz'} is damaged: {error}; prepare it again") from None
    names = tuple(index["names"])
    if not len(names) == len(labels) == len(digests):
        raise DataError(
            f"{data} is damaged: its files do not belong together; prepare the photographs again"
        )
    pictures = Split(_mapped(data, len(names), recipe), torch.arange(len(names)), labels, digests, names)
    values = {f.name: index[f.name] for f in fields(Pool) if f.name != "pictures"}
    lists = {key: tuple(values[key]) for key in ("classes", "skipped", "warnings")}
    mean, covariance = (torch.tensor(index[key], dtype=torch.float64) for key in ("mean", "covariance"))
    return Pool(**(values | lists), pictures=pictures), mean, covariance


def _mapped(data: Path, count: int, recipe: Recipe) -> Tensor:
    shape, path = (count, recipe.resize, recipe.resize, 3), data / "pixels"
    size = path.stat().st_size if path.is_file() else 0
    if size != np.prod(shape):
        raise DataError(f"{path} has {size} bytes, not {np.prod(shape)}; prepare it again")
    if not count:
        return torch.empty(shape, dtype=torch.uint8)
    # Copy on write: torch requires a writable array, and the file must not change.
    return torch.from_numpy(np.memmap(path, np.uint8, "c", shape=shape))
