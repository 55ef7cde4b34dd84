"""Everything that a bit-equal resume needs, in one file that is replaced atomically.

Random states are not in it because there are none to save: every draw of a run is seeded from the
configuration's seed and the step.
"""

import os
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from contract.recipe import RECIPES, Recipe
from training.config import Config, ConfigError, override
from training.model import AlexNet


class CheckpointError(ValueError):
    """The file is missing, cut off, or not a checkpoint of this program."""


def _no_digests() -> Tensor:
    return torch.empty(0, dtype=torch.int64)


@dataclass
class Checkpoint:
    """`model` holds the weights to evaluate and export: the running average where there is one, and
    then `raw` those that the optimiser works on. `step` counts finished optimiser steps; of those
    in the epoch under way, `epoch_loss` sums the losses, `epoch_seconds` the time and `epoch_waited` the
    part of it in which there was no batch. `scaler` is the loss scaling of fp16. The network takes
    (pixel - mean) / std, with `mean` and `std` per channel on the scale 0 to 255. `preprocessing` is the
    id of a recipe where it is not the configuration's own. `data` is the path of the photographs, on the
    machine of the training: it goes into no model file. `metrics` are of exactly these weights, and empty
    within an epoch; `best` are those of best.pt, with its epoch.
    `held_out` has the names (CLASS/FILE) and digests of the validation photographs, which is empty in older
    checkpoints; `trained_on` the digests of the others, sorted, and `trained_before` of those that the run
    which this one started from was trained on.
    """

    config: Config
    classes: tuple[str, ...]
    mean: list[float]
    std: list[float]
    model: Mapping[str, Tensor]
    raw: Mapping[str, Tensor] | None = None
    optimizer: dict[str, Any] = field(default_factory=dict)
    step: int = 0
    epoch: int = 0
    epoch_loss: float = 0.0
    epoch_seconds: float = 0.0
    epoch_waited: float = 0.0
    metrics: dict[str, Any] = field(default_factory=dict)
    best: dict[str, Any] = field(default_factory=dict)
    schedule: dict[str, Any] = field(default_factory=dict)
    scaler: dict[str, Any] = field(default_factory=dict)
    provenance: dict[str, Any] = field(default_factory=dict)
    preprocessing: str | None = None
    data: str = ""
    held_out: dict[str, Any] = field(default_factory=dict, compare=False)  # tensors have no one equality
    trained_on: Tensor = field(default_factory=_no_digests, compare=False)
    trained_before: Tensor = field(default_factory=_no_digests, compare=False)

    @property
    def recipe(self) -> Recipe:
        return RECIPES[self.preprocessing] if self.preprocessing else self.config.recipe


def restore_model(state: Checkpoint) -> AlexNet:
    """The network to evaluate or export, on the CPU. Raises CheckpointError if it is another one than the
    configuration's.
    """
    config = state.config
    model = AlexNet(len(state.classes), config.width, config.weight_init, config.image_size, config.variant)
    try:
        model.load_state_dict(state.model)
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:300]
        raise CheckpointError(
            f"the weights are not of the network that they are said to be: {reason}"
        ) from None
    return model


def find(source: Path) -> Path:
    """`source` itself, or the best (else the last) checkpoint of a run folder. Raises CheckpointError."""
    if not source.is_dir():
        return source
    for path in (source / "best.pt", source / "last.pt"):
        if path.is_file():
            return path
    raise CheckpointError(f"{source} holds neither best.pt nor last.pt; train first")


def save(checkpoint: Checkpoint, path: Path) -> None:
    """Written beside `path`, flushed to the disk, then renamed: a full disk leaves the old file, and
    raises CheckpointError.
    """
    record = {f: getattr(checkpoint, f) for f in Checkpoint.__dataclass_fields__}
    record["config"] = asdict(checkpoint.config)
    partial = path.with_suffix(".partial")
    try:
        with partial.open("wb") as file:
            torch.save(record, file)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except (OSError, RuntimeError) as error:  # torch's writer hides the disk's own error behind another
        raise CheckpointError(f"{path} cannot be written: {error.__context__ or error}") from error
    finally:
        partial.unlink(missing_ok=True)


def save_step(checkpoint: Checkpoint, run: Path, keep: int, best: bool) -> None:
    """Writes step-N.pt into the run folder, which is last.pt from then on, and best.pt if it is; of all
    step-N.pt the newest `keep` stay. The names share one file where the file system can do that.
    """
    path = run / f"step-{checkpoint.step}.pt"
    save(checkpoint, path)
    # last.pt comes last: if the machine stops in between, the run goes on from before, and makes the same
    # best.pt again.
    for name in ("best.pt", "last.pt") if best else ("last.pt",):
        partial = run / f"{name}.partial"
        partial.unlink(missing_ok=True)
        try:
            partial.hardlink_to(path)
        except OSError:
            shutil.copyfile(path, partial)
        partial.replace(run / name)
    steps = sorted(run.glob("step-*.pt"), key=lambda p: int(p.stem.removeprefix("step-")))
    for old in steps[:-keep]:
        old.unlink()


def load(path: Path) -> Checkpoint:
    """Raises CheckpointError if the file is missing, cut off, or not a checkpoint."""
    try:
        record = torch.load(path, map_location="cpu", weights_only=True)
        if "config" not in record:
            raise CheckpointError(
                f"{path} holds no run of this program; torchvision's weights become one by `import`"
            )
        values = record["config"]
        if "init" in values:  # what checkpoints called it before there was a command of that name
            values["weight_init"] = values.pop("init")
        record["config"] = override(Config(), values)
        record.setdefault("std", [record["config"].std] * 3)  # older ones have it nowhere else
        return Checkpoint(**record)
    except CheckpointError:
        raise
    except FileNotFoundError:
        raise CheckpointError(f"{path} does not exist") from None
    except ConfigError as error:
        raise CheckpointError(f"{path} is of another version of this program: {error}") from None
    except (PermissionError, IsADirectoryError) as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror or error}") from error
    # torch raises what its unpickler and zip reader happen to hit, and recommends to run the file's code.
    except Exception as error:
        raise CheckpointError(
            f"{path} is not a readable checkpoint: it is cut off, or another file"
        ) from error
