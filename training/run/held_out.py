"""Find a run's held-out photographs in a folder, by digest, and load them for evaluation."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import torch
from torch import Tensor

from contract.manifest import Manifest
from contract.recipe import Recipe
from training.data.candidates import Candidates, find_candidates, trees_of
from training.data.division import divide
from training.data.folders import Sample, find_measured, printable
from training.data.images import Split, load_pictures, read_digests
from training.data.measured_on import (
    OTHERS,
    PARTLY,
    TRAINED_BEFORE,
    TRAINING,
    UNKNOWN,
    VALIDATION,
    digest_of_all,
    read_measured_on,
)
from training.data.prepared import INDEX
from training.errors import DataError
from training.run.checkpoint import Checkpoint


@dataclass(frozen=True)
class Record:
    """The photographs of a run, as its checkpoint or model file records them.

    `held_out` (M,) and `trained_on` (N,) are digests. `held_out` is None if nothing was recorded, or if
    there were so many that only `digest_of_all` is recorded. `names` are those of the held-out photographs,
    if known. `run` is the checkpoint's provenance, or the manifest's `training`.
    """

    classes: tuple[str, ...]
    recipe: Recipe
    run: Mapping[str, Any]
    held_out: Tensor | None
    trained_on: Tensor
    names: tuple[str, ...] = ()
    digest_of_all: str | None = None


@dataclass(frozen=True)
class Measured:
    """The photographs to measure on.

    `kind` says how they relate to the training, see `training.data.measured_on`. `notes` say what differs
    from the run's own held-out photographs, without file names. `lacking` counts the held-out ones that are
    missing or have changed. `skipped` has a line for each unreadable file.
    """

    split: Split
    kind: str
    notes: tuple[str, ...]
    lacking: int
    skipped: tuple[str, ...]


def record_of(state: Checkpoint) -> Record:
    """Return the photographs that a checkpoint records."""
    held_out = state.held_out.get("digests")
    trained_on = torch.cat([state.trained_on, state.trained_before])
    names = tuple(state.held_out.get("names", ()))
    return Record(state.classes, state.recipe, state.provenance, held_out, trained_on, names)


def record_in(manifest: Manifest) -> Record:
    """Return the photographs that a model file records. Raises DataError if the record is damaged."""
    digests, of_all = read_measured_on(manifest.training)
    unknown = torch.empty(0, dtype=torch.int64)
    run = manifest.training
    return Record(manifest.classes, manifest.recipe, run, digests, unknown, digest_of_all=of_all)


def kind_of(held_out: Tensor, record: Record) -> tuple[str, tuple[str, ...]]:
    """Classify held-out photographs, by digests (N,) -> the kind, and a note if some were trained on."""
    if seen := int(torch.isin(held_out, record.trained_on).sum()):
        note = f"{seen:,} of {len(held_out):,} held-out photographs were trained on, here or before"
        return TRAINING if seen == len(held_out) else PARTLY, (note,)
    if TRAINED_BEFORE in record.run:
        return UNKNOWN, ("the run's start does not record what it was trained on",)
    return VALIDATION, ()


def load_held_out(data: Path, record: Record) -> Measured:
    """Find the run's held-out photographs in `data`, and load them.

    If none of them is there, take the photographs that the run was not trained on, or else those that it
    was trained on. `data` is a folder of class folders, or holds val/, or is a prepared folder. Photographs
    missing in val/ are searched in train/ too. Raises DataError.
    """
    if record.digest_of_all is not None:
        return _load_by_digest_of_all(data, record)
    if record.held_out is None:
        return _load_unrecorded(data, record)
    candidates = find_candidates(data, record.classes, record.recipe, "val")
    held_places = match(candidates, record)
    if len(held_places) < len(record.held_out):
        all_candidates = find_candidates(data, record.classes, record.recipe, "all")
        if len(more := match(all_candidates, record)) > len(held_places):
            candidates, held_places = all_candidates, more
    trained = torch.isin(candidates.digests, record.trained_on)
    # A model file does not record its training photographs, so none is known to be new.
    known = trained | torch.isin(candidates.digests, record.held_out) | (not len(record.trained_on))
    expected = len(record.held_out)
    if len(held_places):
        split, skipped = candidates.load(held_places)
        changed = _changed(candidates, held_places, record)
        notes = _notes(expected, expected - len(held_places) - changed, changed, int((~known).sum()))
        kind, seen = kind_of(candidates.digests[held_places], record)
        return Measured(
            split, kind, notes + seen, expected - len(held_places), candidates.skipped + skipped
        )
    not_trained, trained_count = (~trained).nonzero().flatten(), int(trained.sum())
    if len(not_trained):
        kind, chosen, note = OTHERS, not_trained, f"measured on {len(not_trained):,} others"
        if trained_count:
            note += f", {trained_count:,} training photographs left out"
    elif trained_count:
        kind, chosen, note = TRAINING, torch.arange(trained_count), "measured on training photographs"
    else:
        kind, chosen, note = OTHERS, not_trained, "measured on nothing"
    split, skipped = candidates.load(chosen)
    _require_some(data, split, candidates.skipped + skipped)
    note = f"none of the run's {expected:,} held-out photographs; {note}"
    return Measured(split, kind, (note,), expected, candidates.skipped + skipped)


def match(candidates: Candidates, record: Record) -> Tensor:
    """Find the held-out photographs -> their places, ascending.

    Each is taken as often as it was held out; of several copies, those with its name first.
    """
    assert record.held_out is not None
    expected, names = Counter(record.held_out.tolist()), set(record.names)
    possible = torch.isin(candidates.digests, record.held_out).nonzero().flatten().tolist()
    chosen = []
    for place in sorted(possible, key=lambda place: candidates.names[place] not in names):
        digest = int(candidates.digests[place])
        if expected[digest]:
            expected[digest] -= 1
            chosen.append(place)
    return torch.tensor(sorted(chosen), dtype=torch.int64)


def _changed(candidates: Candidates, held_places: Tensor, record: Record) -> int:
    """Count the held-out names whose files have other content now."""
    assert record.held_out is not None
    here, digests = set(candidates.names), set(candidates.digests[held_places].tolist())
    lost = [d not in digests for d in record.held_out.tolist()]
    return sum(gone and name in here for name, gone in zip(record.names, lost, strict=False))


def _notes(expected: int, missing: int, changed: int, new: int) -> tuple[str, ...]:
    lines = []
    lacking = ((missing, "missing"), (changed, "changed (same name, other content)"))
    if parts := [f"{count:,} {state}" for count, state in lacking if count]:
        lines.append(
            f"of {expected:,} held-out photographs {', '.join(parts)}; "
            f"measured on the other {expected - missing - changed:,}"
        )
    if new:
        lines.append(f"{new:,} new since the training, or unreadable then, are not measured")
    return tuple(lines)


def _load_unrecorded(data: Path, record: Record) -> Measured:
    """Load all photographs, for published networks and runs that recorded no photographs."""
    candidates = find_candidates(data, record.classes, record.recipe, "val")
    split, skipped = candidates.load(torch.arange(len(candidates.names)))
    _require_some(data, split, candidates.skipped + skipped)
    # Only runs of `train` record the number of images, and they were not trained on val/.
    has_val = not (data / INDEX).is_file() and not record.run.get("split") and find_measured(data) != data
    kind = VALIDATION if has_val or "images" not in record.run else UNKNOWN
    note = f"the run does not record which photographs it held out; measured on all {len(split):,} here"
    return Measured(split, kind, (note,), 0, candidates.skipped + skipped)


def _load_by_digest_of_all(data: Path, record: Record) -> Measured:
    """Find the validation photographs of which only the digest of all is recorded. Raises DataError."""
    candidates = find_candidates(data, record.classes, record.recipe, "val")
    possible = [torch.arange(len(candidates.digests))]
    if split := record.run.get("split"):
        fraction, seed = split["val_fraction"], split["seed"]
        divided = divide(
            candidates.names, candidates.labels, candidates.digests, record.classes, fraction, seed
        )
        possible.append(divided[1])
    for places in possible:
        if digest_of_all(candidates.digests[places]) == record.digest_of_all:
            pictures, skipped = candidates.load(places)
            return Measured(pictures, VALIDATION, (), 0, skipped)
    raise DataError(
        f"{printable(data)} does not hold exactly the photographs that its accuracy was measured on"
    )


def load_some_training(data: Path, record: Record, count: int) -> Tensor:
    """Load `count` squares that a network was trained on, or all, always the same. Raises DataError."""
    draw = Random(0)
    if (data / INDEX).is_file():
        unknown = record.held_out is None
        candidates = find_candidates(data, record.classes, record.recipe, "train")
        known = torch.isin(candidates.digests, record.trained_on) | unknown
        places = known.nonzero().flatten().tolist()
        chosen = torch.tensor(draw.sample(places, min(count, len(places))), dtype=torch.int64)
        split, _skipped = candidates.load(chosen)
    else:
        samples = _training_samples(data, record, draw, count)
        split, _reading = load_pictures(samples, record.recipe, "calibration")
    if not len(split):
        raise DataError(
            f"{printable(data)} holds none of the photographs that the run was trained on, and they are "
            "needed: pass the folder that it was trained on"
        )
    return split.squares(torch.arange(len(split)))


def _training_samples(data: Path, record: Record, draw: Random, count: int) -> list[Sample]:
    (tree,) = trees_of(data, record.classes, "train")
    samples = list(tree.samples)
    if record.held_out is None:
        return draw.sample(samples, min(count, len(samples)))
    draw.shuffle(samples)
    chosen: list[Sample] = []
    for start in range(0, len(samples), count):  # stop reading files once there are enough
        chunk = samples[start : start + count]
        reading = read_digests(chunk, "calibration")
        known = torch.isin(reading.digests, record.trained_on)
        chosen += [chunk[place] for place in reading.places[known].tolist()]
        if len(chosen) >= count:
            break
    return chosen[:count]


def _require_some(data: Path, split: Split, skipped: Sequence[str]) -> None:
    if not len(split):
        because = f": {skipped[0]}" if skipped else ""
        raise DataError(f"{printable(data)} has no picture that can be read{because}")
