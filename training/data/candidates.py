"""List a folder's photographs with their digests; decode only those that are chosen."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from contract.recipe import Recipe
from training.data.folders import Tree, find_measured, listed, scan_known
from training.data.images import Split, load_pictures, read_digests
from training.data.prepared import INDEX, open_prepared
from training.errors import DataError

Side = Literal["train", "val", "all"]


@dataclass(frozen=True)
class Candidates:
    """The photographs of a folder, by name, label and digest.

    `labels` and `digests` (N,) int64. `load` decodes those at the given places (n,) -> a Split, and a line
    for each that cannot be read. `skipped` has such lines from reading the digests.
    """

    names: Sequence[str]
    labels: Tensor
    digests: Tensor
    load: Callable[[Tensor], tuple[Split, tuple[str, ...]]]
    skipped: tuple[str, ...] = ()


def find_candidates(data: Path, classes: Sequence[str], recipe: Recipe, side: Side) -> Candidates:
    """Identify the photographs of `data`: those of `side` if it came divided, else all.

    `data` is a folder of photographs or a prepared one. Raises DataError.
    """
    if (data / INDEX).is_file():
        return _in_prepared(data, classes, recipe, side)
    samples = [sample for tree in trees_of(data, classes, side) for sample in tree.samples]
    reading = read_digests(samples, "identify")
    readable = [samples[place] for place in reading.places.tolist()]

    def load(places: Tensor) -> tuple[Split, tuple[str, ...]]:
        split, loaded = load_pictures([readable[place] for place in places.tolist()], recipe, "val")
        return split, loaded.skipped

    labels = torch.tensor([sample.label for sample in readable], dtype=torch.int64)
    return Candidates([s.name for s in readable], labels, reading.digests, load, reading.skipped)


def _in_prepared(data: Path, classes: Sequence[str], recipe: Recipe, side: Side) -> Candidates:
    pool, _mean, _covariance = open_prepared(data, recipe)
    if unknown := [repr(name) for name in pool.classes if name not in classes]:
        raise DataError(f"class {listed(unknown)} in {data} is not among those trained: {listed(classes)}")
    train, val = pool.sides()
    rows = {"train": train, "val": val, "all": pool.pictures.rows}
    part = pool.pictures.part(rows["all" if pool.split else side])
    places = torch.tensor([classes.index(name) for name in pool.classes])
    part = replace(part, labels=places[part.labels])
    return Candidates(part.names, part.labels, part.digests, lambda chosen: (part.part(chosen), ()))


def trees_of(data: Path, classes: Sequence[str], side: Side) -> list[Tree]:
    """List the class folders of `side`, or all if `data` is one tree. Raises DataError."""
    roots = [find_measured(data)]
    if side != "val" and roots[0] != data and (data / "train").is_dir():
        roots = [data / "train", *roots] if side == "all" else [data / "train"]
    return [scan_known(root, classes) for root in roots]
