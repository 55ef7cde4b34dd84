"""Record in a checkpoint which photographs a run uses; compare them on resume or reuse."""

import hashlib
import unicodedata
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor

from training.data.division import Earlier
from training.data.folders import printable
from training.data.images import Split
from training.data.measured_on import TRAINED_BEFORE, read_measured_on
from training.data.prepared import Dataset
from training.errors import CheckpointError
from training.run.checkpoint import Checkpoint
from training.start.weights import Start

NONE: Final = torch.empty(0, dtype=torch.int64)


def record_photographs(state: Checkpoint, dataset: Dataset) -> None:
    """Record in a new run's checkpoint its held-out and training photographs."""
    state.held_out = {
        "names": list(dataset.val.names),
        "digests": dataset.val.digests.clone(),
        "order": _order_of(dataset),
    }
    state.trained_on = dataset.train.digests.sort().values
    state.trained_before = dataset.trained_before
    if dataset.unrecorded:
        state.provenance[TRAINED_BEFORE] = "not recorded"


def require_plain_path(out: Path) -> None:
    """Raise CheckpointError for a run folder whose name is not UTF-8: TensorBoard cannot write there."""
    if (shown := printable(out)) != unicodedata.normalize("NFC", str(out)):
        raise CheckpointError(
            f"--out is {shown}, which is not UTF-8 or has control characters; use another name"
        )


def earlier_run(out: Path, resumed: Checkpoint | None, start: Start | None) -> Earlier | None:
    """Return the run whose held-out photographs a run in `out` must keep: itself, or that of `start`."""
    if resumed is not None:
        return earlier_of_itself(resumed, out)
    if start is None:
        return None
    if start.checkpoint is not None:
        return earlier_of(start.checkpoint, start.description)
    # A model file of `export`; base and published networks were trained on other photographs.
    return earlier_of_file(start.provenance, start.description) if "images" in start.provenance else None


def earlier_of(state: Checkpoint, name: str) -> Earlier:
    """Return the held-out photographs of the run `name`, and those that its weights were trained on."""
    trained_on = torch.cat([state.trained_on, state.trained_before])
    # Only runs of `train` record the number of images; imported and base networks saw other ones.
    recorded = bool(state.held_out) or "images" not in state.provenance
    known = recorded and TRAINED_BEFORE not in state.provenance
    return Earlier(name, state.held_out.get("digests", NONE), trained_on, None if known else NONE)


def earlier_of_file(training: Mapping[str, Any], name: str) -> Earlier:
    """Return the photographs that the model file `name` was measured on; it records no others.

    `training` is the entry of its manifest. Raises DataError if the record is damaged.
    """
    measured, _digest_of_all = read_measured_on(training)
    held_out = NONE if measured is None else measured
    return Earlier(name, held_out, NONE, NONE if TRAINED_BEFORE in training else held_out)


def earlier_of_itself(state: Checkpoint, out: Path) -> Earlier | None:
    """Return the photographs of the resumed run in `out`; None if it did not record them."""
    if not state.held_out:
        return None
    return Earlier(str(out), state.held_out["digests"], state.trained_on, itself=True)


def trained_in(state: Checkpoint, run: Path) -> Path:
    """Return the folder that a run was trained on. Raises CheckpointError if it is unknown or gone."""
    if not state.data:
        raise CheckpointError(f"{run} does not record where its photographs are; add --data DIR")
    if not Path(state.data).is_dir():
        raise CheckpointError(
            f"{run} was trained on {state.data}, which is gone; add --data DIR with its new place"
        )
    return Path(state.data)


def require_same_photographs(state: Checkpoint, dataset: Dataset, out: Path) -> None:
    """Raise CheckpointError if a resumed run has other photographs than at its start."""
    if not state.held_out:
        raise CheckpointError(
            f"{out} was started by an older version, which recorded no photographs; start another run "
            "from it with --from"
        )
    names, held_out = state.held_out["names"], state.held_out["digests"]
    names_now = [*dataset.train.names, *dataset.val.names]
    digests_now = torch.cat([dataset.train.digests, dataset.val.digests])
    added = [names_now[place] for place in _lacking(digests_now, torch.cat([state.trained_on, held_out]))]
    removed = len(_lacking(torch.cat([state.trained_on, held_out]), digests_now))
    lost = [
        names[place] for place in _lacking(held_out, digests_now)
    ]  # the training photographs have no recorded names
    changed = len(set(added) & set(lost))
    counts = ((len(added) - changed, "added"), (removed - changed, "removed"), (changed, "changed"))
    differences = ", ".join(f"{count:,} {change}" for count, change in counts if count)
    if example := (added + lost)[:1]:
        differences += f" (such as {example[0]})"
    if not differences and (moved := len(_lacking(dataset.val.digests, held_out))):
        differences = f"{moved:,} moved between training and validation"
    if not differences and state.held_out["order"] != _order_of(dataset):
        differences = "the same ones under other names or in other classes"
    if differences:
        raise CheckpointError(
            f"{out} was started with other photographs: {differences}. Restore them, or start another "
            "run from it with --from"
        )


def _lacking(these: Tensor, those: Tensor) -> list[int]:
    """Find the digests of `these` that are not in `those` -> their places; copies count separately."""
    left: dict[int, int] = {}
    for digest in those.tolist():
        left[digest] = left.get(digest, 0) + 1
    lacking = []
    for place, digest in enumerate(these.tolist()):
        left[digest] = left.get(digest, 0) - 1
        if left[digest] < 0:
            lacking.append(place)
    return lacking


def _order_of(dataset: Dataset) -> str:
    """Digest the order and classes of all photographs, on which a resumed run's batches depend."""
    digest = hashlib.blake2b(digest_size=16)
    for split in (dataset.train, dataset.val):
        digest.update(_bytes(split))
    return digest.hexdigest()


def _bytes(split: Split) -> bytes:
    return torch.stack([split.digests, split.labels]).numpy().tobytes()
