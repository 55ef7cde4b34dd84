"""Which photographs a network is measured on: those that its run held out, found by their content."""

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
    """What a run or a model file says of its photographs: `held_out` (M,), `trained_on` (N,) are digests.
    `held_out` is None where nothing was recorded, or so many that `together` is one digest of all; `names`
    are those of the held-out ones, if they are known. `run` is the provenance.
    """

    classes: tuple[str, ...]
    recipe: Recipe
    run: Mapping[str, Any]
    held_out: Tensor | None
    trained_on: Tensor
    names: tuple[str, ...] = ()
    together: str | None = None


@dataclass(frozen=True)
class Measured:
    """The photographs to measure on. `kind` says what they are to the run: validation, photographs not
    trained on, training photographs, or not known. `notes` say what differs from the run's own, without
    file names; `lacking` counts the held-out ones that are missing or have changed.
    """

    split: Split
    kind: str
    notes: tuple[str, ...]
    lacking: int
    skipped: tuple[str, ...]


def record_of(state: Checkpoint) -> Record:
    held_out = state.held_out.get("digests")
    trained_on = torch.cat([state.trained_on, state.trained_before])
    names = tuple(state.held_out.get("names", ()))
    return Record(state.classes, state.recipe, state.provenance, held_out, trained_on, names)


def record_in(manifest: Manifest) -> Record:
    """Raises DataError."""
    digests, together = read_measured_on(manifest.training)
    unknown = torch.empty(0, dtype=torch.int64)
    run = manifest.training
    return Record(manifest.classes, manifest.recipe, run, digests, unknown, together=together)


def kind_of(held_out: Tensor, record: Record) -> tuple[str, tuple[str, ...]]:
    """-> what held-out photographs, by digests (N,), are to the run, and a note if it has seen some."""
    if seen := int(torch.isin(held_out, record.trained_on).sum()):
        note = f"{seen:,} of {len(held_out):,} held-out photographs were trained on, here or before"
        return TRAINING if seen == len(held_out) else PARTLY, (note,)
    if TRAINED_BEFORE in record.run:
        return UNKNOWN, ("what the run started from does not record what it was trained on",)
    return VALIDATION, ()


def load_held_out(data: Path, record: Record) -> Measured:
    """Find the run's held-out photographs in `data`, whatever it is called.

    Without any of them it is what the run wasn't trained on; without that, what it was trained on. `data`
    is a folder of class folders, or it holds val/, or it was prepared. What isn't in val/ is looked for in
    train/ too. Raises DataError.
    """
    if record.together is not None:
        return _load_together(data, record)
    if record.held_out is None:
        return _load_unrecorded(data, record)
    found = find_candidates(data, record.classes, record.recipe, "val")
    held = match(found, record)
    if len(held) < len(record.held_out):
        everywhere = find_candidates(data, record.classes, record.recipe, "all")
        if len(more := match(everywhere, record)) > len(held):
            found, held = everywhere, more
    trained = torch.isin(found.digests, record.trained_on)
    # A model file does not say what it was trained on, so nothing is known to be new.
    known = trained | torch.isin(found.digests, record.held_out) | (not len(record.trained_on))
    wanted = len(record.held_out)
    if len(held):
        split, skipped = found.load(held)
        changed = _changed(found, held, record)
        notes = _notes(wanted, wanted - len(held) - changed, changed, int((~known).sum()))
        kind, seen = kind_of(found.digests[held], record)
        return Measured(split, kind, notes + seen, wanted - len(held), found.skipped + skipped)
    others, left_out = (~trained).nonzero().flatten(), int(trained.sum())
    if len(others):
        kind, chosen, note = OTHERS, others, f"measured on {len(others):,} others"
        if left_out:
            note += f", {left_out:,} training photographs left out"
    elif left_out:
        kind, chosen, note = TRAINING, torch.arange(left_out), "measured on training photographs"
    else:
        kind, chosen, note = OTHERS, others, "measured on nothing"
    split, skipped = found.load(chosen)
    _require_some(data, split, found.skipped + skipped)
    note = f"none of the run's {wanted:,} held-out photographs; {note}"
    return Measured(split, kind, (note,), wanted, found.skipped + skipped)


def match(found: Candidates, record: Record) -> Tensor:
    """-> the places of the held-out photographs, ascending: each as often as it was held out, and of copies
    those that have its name.
    """
    assert record.held_out is not None
    wanted, names = Counter(record.held_out.tolist()), set(record.names)
    possible = torch.isin(found.digests, record.held_out).nonzero().flatten().tolist()
    chosen = []
    for place in sorted(possible, key=lambda place: found.names[place] not in names):
        digest = int(found.digests[place])
        if wanted[digest]:
            wanted[digest] -= 1
            chosen.append(place)
    return torch.tensor(sorted(chosen), dtype=torch.int64)


def _changed(found: Candidates, held: Tensor, record: Record) -> int:
    """Count held-out names under which there is something else now."""
    assert record.held_out is not None
    here, digests = set(found.names), set(found.digests[held].tolist())
    lost = [d not in digests for d in record.held_out.tolist()]
    return sum(gone and name in here for name, gone in zip(record.names, lost, strict=False))


def _notes(wanted: int, missing: int, changed: int, new: int) -> tuple[str, ...]:
    lines = []
    lacking = ((missing, "missing"), (changed, "changed (same name, other content)"))
    if said := [f"{count:,} {what}" for count, what in lacking if count]:
        lines.append(
            f"of {wanted:,} held-out photographs {', '.join(said)}; "
            f"measured on the other {wanted - missing - changed:,}"
        )
    if new:
        lines.append(f"{new:,} new since the training, or unreadable then, are not measured")
    return tuple(lines)


def _load_unrecorded(data: Path, record: Record) -> Measured:
    """Measure a published network, or a run of a version that recorded no photographs, on all there is."""
    found = find_candidates(data, record.classes, record.recipe, "val")
    split, skipped = found.load(torch.arange(len(found.names)))
    _require_some(data, split, found.skipped + skipped)
    # A run of `train` says how many images it had; what it was given as val/ it was not trained on.
    apart = not (data / INDEX).is_file() and not record.run.get("split") and find_measured(data) != data
    kind = VALIDATION if apart or "images" not in record.run else UNKNOWN
    note = f"the run does not record which photographs it held out; measured on all {len(split):,} here"
    return Measured(split, kind, (note,), 0, found.skipped + skipped)


def _load_together(data: Path, record: Record) -> Measured:
    """Find photographs of which one digest of all is known: what is validation here, or DataError."""
    found = find_candidates(data, record.classes, record.recipe, "val")
    possible = [torch.arange(len(found.digests))]
    if split := record.run.get("split"):
        fraction, seed = split["val_fraction"], split["seed"]
        divided = divide(found.names, found.labels, found.digests, record.classes, fraction, seed)
        possible.append(divided[1])
    for places in possible:
        if digest_of_all(found.digests[places]) == record.together:
            pictures, skipped = found.load(places)
            return Measured(pictures, VALIDATION, (), 0, skipped)
    raise DataError(
        f"{printable(data)} does not hold exactly the photographs that its accuracy was measured on"
    )


def load_some_training(data: Path, record: Record, count: int) -> Tensor:
    """`count` of the squares that a network was trained on, or all, always the same, or DataError."""
    draw = Random(0)
    if (data / INDEX).is_file():
        unknown = record.held_out is None
        found = find_candidates(data, record.classes, record.recipe, "train")
        known = torch.isin(found.digests, record.trained_on) | unknown
        places = known.nonzero().flatten().tolist()
        chosen = torch.tensor(draw.sample(places, min(count, len(places))), dtype=torch.int64)
        split, _skipped = found.load(chosen)
    else:
        samples = _training_samples(data, record, draw, count)
        split, _reading = load_pictures(samples, record.recipe, "calibration")
    if not len(split):
        raise DataError(
            f"{printable(data)} holds none of the photographs that the run was trained on, and they are "
            "needed: pass the folder that was trained on"
        )
    return split.squares(torch.arange(len(split)))


def _training_samples(data: Path, record: Record, draw: Random, count: int) -> list[Sample]:
    (tree,) = trees_of(data, record.classes, "train")
    samples = list(tree.samples)
    if record.held_out is None:
        return draw.sample(samples, min(count, len(samples)))
    draw.shuffle(samples)
    chosen: list[Sample] = []
    for start in range(0, len(samples), count):  # no more files are read than needed
        some = samples[start : start + count]
        reading = read_digests(some, "calibration")
        known = torch.isin(reading.digests, record.trained_on)
        chosen += [some[place] for place in reading.places[known].tolist()]
        if len(chosen) >= count:
            break
    return chosen[:count]


def _require_some(data: Path, split: Split, skipped: Sequence[str]) -> None:
    if not len(split):
        because = f": {skipped[0]}" if skipped else ""
        raise DataError(f"{printable(data)} has no picture that can be read{because}")
