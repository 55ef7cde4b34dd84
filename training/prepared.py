"""What a run trains on: a folder of photographs, or one that `prepare` has scaled once and for all.

A prepared folder holds prepared.json, pictures.npz (labels and digests) and pixels (the squares one after
the other, raw uint8). The pixels are mapped, not read: a set may be larger than the memory, the processes
of one machine share the pages, and an image costs a copy of 196 kB.
"""

import json
import zipfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor

from contract.recipe import Recipe
from training.config import Config
from training.data import Reading, Split, channel_statistics, load_pictures, read_squares, split_of
from training.division import Earlier, divide
from training.folders import (
    DataError,
    Tree,
    by_suffix,
    find_trees,
    listed,
    printable,
)

INDEX: Final = "prepared.json"
FORMAT: Final = 2
# What one that was cut off leaves behind.
_BEGUN: Final = {f"{INDEX}.partial", "pixels", "pictures.npz"}


@dataclass(frozen=True)
class Dataset:
    """`mean` (3,) and `covariance` (3, 3) are of the training set's RGB values, 0 to 255, float64; `split`
    says how one tree was divided, None where it came divided. `skipped` are the pictures that cannot be
    read, each with the reason, `others` says how many files are no pictures. `trained_before` are the
    digests of what the run that this one starts from was trained on.
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


@dataclass(frozen=True)
class Prepared:
    """A prepared folder: all of its pictures, of which the first `train` came as the training part, None
    where one tree was divided as `index["split"]` says.
    """

    index: dict[str, Any]
    pictures: Split

    @property
    def train(self) -> int | None:
        count: int | None = self.index["train"]
        return count


def prepare(data: Path, out: Path, config: Config, workers: int | None = None) -> Dataset:
    """Writes every picture of `data` as `config.recipe` has it into `out`, prepared.json last: a folder
    without it is not used, and begun anew. Raises DataError.
    """
    if out.is_dir() and {path.name for path in out.iterdir()} - _BEGUN:
        raise DataError(f"{out} is not empty; choose another folder")
    parts, trees = find_trees(data)
    samples = [sample for tree in trees for sample in tree.samples]
    out.mkdir(parents=True, exist_ok=True)
    with (out / "pixels").open("wb") as file:
        reading = read_squares(
            samples, config.recipe, "prepare", workers, lambda s: file.write(s.numpy().data)
        )
    train = _require_classes(trees, reading)
    squares = _mapped(out, len(reading.places), config.recipe)
    pictures = split_of(squares, samples, reading)
    np.savez(out / "pictures.npz", labels=pictures.labels.numpy(), digests=pictures.digests.numpy())
    split = _split_by(config) if parts.val is None else None
    rows, _held_out = _sides(pictures, trees[0].classes, train, split, None)
    mean, covariance = channel_statistics(squares, rows)
    index = {
        "format": FORMAT,
        "data": printable(data.resolve().name),
        "classes": trees[0].classes,
        "recipe": config.recipe.id,
        "resize": config.recipe.resize,
        "split": split,
        "train": train,
        "mean": mean.tolist(),
        "covariance": covariance.tolist(),
        "skipped": reading.skipped,
        "others": _others(trees),
        "warnings": parts.warnings,
        "names": pictures.names,
    }
    partial = out / f"{INDEX}.partial"
    partial.write_text(json.dumps(index, indent=1, ensure_ascii=False), encoding="utf-8")
    partial.replace(out / INDEX)
    return load_dataset(out, config)


def load_dataset(
    data: Path, config: Config, workers: int | None = None, earlier: Earlier | None = None
) -> Dataset:
    """`data` is a prepared folder, or one of photographs: train/ and val/, or one tree that is split here.

    What `earlier` held out or was trained on stays on its side of a tree that is split. Raises DataError.
    """
    if (data / INDEX).is_file():
        prepared = open_prepared(data, config.recipe)
        index, pictures, train = prepared.index, prepared.pictures, prepared.train
        split, name, classes = index["split"], index["data"], tuple(index["classes"])
        skipped, others, warnings = tuple(index["skipped"]), index["others"], tuple(index["warnings"])
    else:
        index = {}
        parts, trees = find_trees(data)
        samples = [sample for tree in trees for sample in tree.samples]
        pictures, reading = load_pictures(samples, config.recipe, "read", workers)
        train = _require_classes(trees, reading)
        split = _split_by(config) if parts.val is None else None
        name, classes = printable(data.resolve().name), trees[0].classes
        skipped, others, warnings = reading.skipped, _others(trees), parts.warnings
    rows, held_out = _sides(pictures, classes, train, split, earlier)
    if index and torch.equal(rows, _sides(pictures, classes, train, split, None)[0]):
        mean, covariance = (torch.tensor(index[key], dtype=torch.float64) for key in ("mean", "covariance"))
    else:
        mean, covariance = channel_statistics(pictures.pixels, rows)
    val = pictures.part(held_out)
    before = earlier.trained_on if earlier else torch.empty(0, dtype=torch.int64)
    if earlier is not None:
        warnings += _seen_before(val, earlier)
    return Dataset(
        name, classes, split, mean, covariance, pictures.part(rows), val, skipped, others, warnings, before
    )


def _split_by(config: Config) -> dict[str, Any]:
    return {"val_fraction": config.val_fraction, "seed": config.seed}


def _sides(
    pictures: Split,
    classes: Sequence[str],
    train: int | None,
    split: dict[str, Any] | None,
    earlier: Earlier | None,
) -> tuple[Tensor, Tensor]:
    """-> the rows to train on and those held out, ascending. Raises DataError."""
    if split is None:
        return torch.arange(len(pictures))[:train], torch.arange(len(pictures))[train:]
    return divide(
        pictures.names,
        pictures.labels,
        pictures.digests,
        classes,
        split["val_fraction"],
        split["seed"],
        earlier,
    )


def _require_classes(trees: Sequence[Tree], reading: Reading) -> int | None:
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
        lines = [_too_few(first, label, readable[label], reading.skipped) for label in poor]
        raise DataError(
            f"{printable(first.root)}: each class needs {number} that can be read; {listed(lines)}"
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


def _others(trees: Sequence[Tree]) -> str:
    return by_suffix(sample.name for tree in trees for sample in tree.others)


def _seen_before(val: Split, earlier: Earlier) -> tuple[str, ...]:
    if earlier.itself:
        return ()
    if not earlier.recorded:
        return (f"{earlier.name} does not record what it was trained on: validation may hold some of it",)
    seen = int(torch.isin(val.digests, earlier.trained_on).sum())
    if not seen:
        return ()
    return (
        f"{seen} of {len(val)} validation photographs are among those that {earlier.name} was trained on: "
        "the accuracy on them promises too much",
    )


def open_prepared(data: Path, recipe: Recipe) -> Prepared:
    """Map a folder that `prepare` has written; DataError if it is another, damaged, or otherwise scaled."""
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
        raise DataError(f"{data} does not fit together; prepare the photographs again")
    return Prepared(
        index, Split(_mapped(data, len(names), recipe), torch.arange(len(names)), labels, digests, names)
    )


def _mapped(data: Path, count: int, recipe: Recipe) -> Tensor:
    shape, path = (count, recipe.resize, recipe.resize, 3), data / "pixels"
    found = path.stat().st_size if path.is_file() else 0
    if found != np.prod(shape):
        raise DataError(f"{path} has {found} bytes, not {np.prod(shape)}; prepare it again")
    if not count:
        return torch.empty(shape, dtype=torch.uint8)
    # Copy on write: torch wants an array that could be written, and nothing reaches the file.
    return torch.from_numpy(np.memmap(path, np.uint8, "c", shape=shape))
