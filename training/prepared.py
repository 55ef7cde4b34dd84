"""What a run trains on: a folder of photographs, or one that `prepare` has scaled once and for all.

A prepared folder holds prepared.json and, for train and val each, NAME.pixels (the squares one after the
other, raw uint8) and NAME.labels.npy. They are mapped, not read: a set may be larger than the memory,
the processes of one machine share the pages, and an image costs a copy of 196 kB.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor

from contract.recipe import Recipe
from training.config import Config
from training.data import (
    DataError,
    Sample,
    Split,
    channel_statistics,
    find_samples,
    held_out_samples,
    load_split,
    read_squares,
    training_samples,
)

INDEX: Final = "prepared.json"
# What one that was cut off leaves behind.
_BEGUN: Final = {
    f"{INDEX}.partial",
    *(f"{n}.{k}" for n in ("train", "val") for k in ("pixels", "labels.npy")),
}


@dataclass(frozen=True)
class Dataset:
    """`mean` (3,) and `covariance` (3, 3) are of the training set's RGB values, 0 to 255, float64; `split`
    says how one tree was divided, None where it came divided.
    """

    name: str
    classes: tuple[str, ...]
    split: dict[str, Any] | None
    mean: Tensor
    covariance: Tensor
    train: Split
    val: Split


def prepare(data: Path, out: Path, config: Config, workers: int | None = None) -> Dataset:
    """Writes every picture of `data` as `config.recipe` has it into `out`, prepared.json last: a folder
    without it is not used, and begun anew. Raises DataError.
    """
    if out.is_dir() and {path.name for path in out.iterdir()} - _BEGUN:
        raise DataError(f"{out} is not empty; choose another folder")
    classes, *found = find_samples(data, config.val_fraction, config.seed)
    out.mkdir(parents=True, exist_ok=True)
    skipped = {
        name: _write(out, name, samples, config.recipe, workers)
        for name, samples in zip(("train", "val"), found, strict=True)
    }
    mean, covariance = channel_statistics(_mapped(out, "train", config.recipe, ()).squares)
    index = {
        "data": data.resolve().name,
        "classes": classes,
        "recipe": config.recipe.id,
        "resize": config.recipe.resize,
        "split": _split_of(data, config),
        "mean": mean.tolist(),
        "covariance": covariance.tolist(),
        "skipped": skipped,
    }
    partial = out / f"{INDEX}.partial"
    partial.write_text(json.dumps(index, indent=1, ensure_ascii=False))
    partial.replace(out / INDEX)
    return load_dataset(out, config)


def load_dataset(data: Path, config: Config, workers: int | None = None) -> Dataset:
    """`data` is a prepared folder, or one of photographs as `find_samples` takes it. Raises DataError."""
    if (data / INDEX).is_file():
        index = _index(data, config.recipe)
        return Dataset(
            index["data"],
            tuple(index["classes"]),
            index["split"],
            torch.tensor(index["mean"], dtype=torch.float64),
            torch.tensor(index["covariance"], dtype=torch.float64),
            *(_mapped(data, name, config.recipe, index["skipped"][name]) for name in ("train", "val")),
        )
    classes, *found = find_samples(data, config.val_fraction, config.seed)
    train, val = (
        load_split(samples, config.recipe, name, workers)
        for samples, name in zip(found, ("train", "val"), strict=True)
    )
    name, split = data.resolve().name, _split_of(data, config)
    return Dataset(name, classes, split, *channel_statistics(train.squares), train, val)


def load_held_out(data: Path, classes: Sequence[str], run: Mapping[str, Any], recipe: Recipe) -> Split:
    """What to measure a trained network on: a prepared folder's val, or as `held_out_samples` says."""
    if not (data / INDEX).is_file():
        return load_split(held_out_samples(data, classes, run), recipe, "val")
    index = _index(data, recipe)
    for name in index["classes"]:
        if name not in classes:
            raise DataError(f"class {name!r} in {data} is not among those trained: {', '.join(classes)}")
    split = _mapped(data, "val", recipe, index["skipped"]["val"])
    places = torch.tensor([classes.index(name) for name in index["classes"]])
    return replace(split, labels=places[split.labels])


def load_some_training(data: Path, run: Mapping[str, Any], recipe: Recipe, count: int) -> Tensor:
    """`count` of the squares that a network was trained on, or all, always the same ones."""
    draw = Random(0)
    if (data / INDEX).is_file():
        index = _index(data, recipe)
        squares = _mapped(data, "train", recipe, index["skipped"]["train"]).squares
        return squares[draw.sample(range(len(squares)), min(count, len(squares)))]
    found = training_samples(data, run)
    # As one class: it does not matter if all that was drawn of another is unreadable.
    some = [(path, 0) for path, _label in draw.sample(found, min(count, len(found)))]
    return load_split(some, recipe, "calibration").squares


def _split_of(data: Path, config: Config) -> dict[str, Any] | None:
    divided = (data / "train").is_dir()
    return None if divided else {"val_fraction": config.val_fraction, "seed": config.seed}


def _index(data: Path, recipe: Recipe) -> dict[str, Any]:
    try:
        index: dict[str, Any] = json.loads((data / INDEX).read_text())
    except ValueError as error:
        raise DataError(f"{data / INDEX} is damaged: {error}; prepare the photographs again") from None
    if (index["recipe"], index["resize"]) != (recipe.id, recipe.resize):
        raise DataError(
            f"{data} was prepared by {index['recipe']} at {index['resize']} pixels; this needs {recipe.id} "
            f"at {recipe.resize}: prepare the photographs again, with the same --image-size"
        )
    return index


def _write(
    out: Path, name: str, samples: Sequence[Sample], recipe: Recipe, workers: int | None
) -> tuple[str, ...]:
    with (out / f"{name}.pixels").open("wb") as file:
        labels, skipped = read_squares(
            samples, recipe, name, workers, lambda square: file.write(square.numpy().data)
        )
    np.save(out / f"{name}.labels.npy", labels.numpy())
    return skipped


def _mapped(data: Path, name: str, recipe: Recipe, skipped: Sequence[str]) -> Split:
    labels = torch.from_numpy(np.load(data / f"{name}.labels.npy"))
    shape = (len(labels), recipe.resize, recipe.resize, 3)
    path = data / f"{name}.pixels"
    if path.stat().st_size != np.prod(shape):
        raise DataError(f"{path} has {path.stat().st_size} bytes, not {np.prod(shape)}; prepare it again")
    # Copy on write: torch wants an array that could be written, and nothing reaches the file.
    pixels = np.memmap(path, np.uint8, "c", shape=shape)
    return Split(torch.from_numpy(pixels), labels, tuple(skipped))
