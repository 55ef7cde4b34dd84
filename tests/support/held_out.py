"""Make runs that hold out some of ten pictures a class, and measure them, for tests."""

from pathlib import Path

from training.config import Config
from training.data.prepared import Dataset
from training.run.checkpoint import Checkpoint
from training.run.held_out import Measured, load_held_out, record_of
from training.run.provenance import run_provenance
from training.start.record import record_photographs

COLOURS = {"iris": (60, 40, 200), "rose": (200, 30, 50)}
CONFIG = Config(val_fraction=0.3)


def run_on(dataset: Dataset) -> Checkpoint:
    """Make the checkpoint that training on `dataset` would record."""
    state = Checkpoint(CONFIG, dataset.classes, [0.0] * 3, [1.0] * 3, {})
    state.provenance = run_provenance(dataset)
    record_photographs(state, dataset)
    return state


def measured(data: Path, state: Checkpoint) -> tuple[set[str], Measured]:
    result = load_held_out(data, record_of(state))
    for name, label in zip(result.split.names, result.split.labels.tolist(), strict=True):
        assert name.split("/")[0] == state.classes[label]
    return set(result.split.names), result
