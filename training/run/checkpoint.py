"""Read, check and write checkpoints: one file with everything that a bit-equal resume needs.

Files are replaced atomically. They hold no random state, because every draw of a run is seeded from the
configuration's seed and the step (`training.seeding`).
"""

import math
import os
import shutil
import zipfile
from collections.abc import Mapping
from dataclasses import MISSING, asdict, dataclass, field
from pathlib import Path
from typing import Any, cast, get_type_hints

import torch
from torch import Tensor

from contract.recipe import RECIPES, Recipe
from training.config import Config, override
from training.conforms import conforms
from training.errors import CheckpointError, ConfigError
from training.messages import abbreviated
from training.model import AlexNet


def _no_digests() -> Tensor:
    return torch.empty(0, dtype=torch.int64)


@dataclass
class Checkpoint:
    """The state of a run.

    - `model`: the weights to evaluate and export, which are the running average if there is one; then
      `raw` are the weights that the optimiser updates.
    - `step`: finished optimiser steps. For those of the current epoch, `epoch_loss` sums the losses,
      `epoch_seconds` the time and `epoch_waited` the time spent waiting for data.
    - `mean`, `std`: per channel, 0 to 255; the network takes (pixel - mean) / std.
    - `preprocessing`: the id of a recipe, if it is not the configuration's own.
    - `scaler`: the loss scaling of fp16. `schedule`: the state of `training.schedule`.
    - `metrics`: of exactly these weights; empty within an epoch. `best`: those of best.pt, with its epoch.
    - `data`, `background`: the paths of the photographs and of the background pictures on the training
      machine; not written into model files.
    - `held_out`: names (CLASS/FILE) and digests of the validation photographs; empty in older checkpoints.
    - `trained_on`: sorted digests of the training photographs. `trained_before`: digests of those that
      the run which this one started from was trained on.
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
    background: str = ""
    held_out: dict[str, Any] = field(
        default_factory=dict, compare=False
    )  # tensors do not compare to a bool
    trained_on: Tensor = field(default_factory=_no_digests, compare=False)
    trained_before: Tensor = field(default_factory=_no_digests, compare=False)

    @property
    def recipe(self) -> Recipe:
        """The preprocessing of the network."""
        return RECIPES[self.preprocessing] if self.preprocessing else self.config.recipe


def restore_model(state: Checkpoint) -> AlexNet:
    """Build the network to evaluate or export, on the CPU.

    Raises CheckpointError if the weights do not fit the network of the configuration.
    """
    config = state.config
    model = AlexNet(len(state.classes), config.width, config.weight_init, config.image_size, config.variant)
    if problem := misfit(state.model, model.state_dict()):
        raise CheckpointError(f"the weights do not fit the network of the settings: {problem}")
    model.load_state_dict(state.model)
    return model


def save(checkpoint: Checkpoint, path: Path) -> None:
    """Write a checkpoint beside `path`, flush it to disk, and rename it over `path`.

    If that fails, on a full disk for instance, the old file stays. Raises CheckpointError.
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
    except (OSError, RuntimeError) as error:  # torch's writer raises another error from the disk's own
        cause = error.__context__ or error
        reason = cause.strerror if isinstance(cause, OSError) else cause
        raise CheckpointError(f"{path} cannot be written: {reason}") from error
    finally:
        partial.unlink(missing_ok=True)


def save_step(checkpoint: Checkpoint, run: Path, keep: int, best: bool) -> None:
    """Write step-N.pt into the run folder, with last.pt and, if it is the `best`, best.pt linked to it.

    The newest `keep` of step-N.pt stay. Without hard links, the names get copies.
    """
    path = run / f"step-{checkpoint.step}.pt"
    save(checkpoint, path)
    # last.pt comes last: if the machine stops in between, the run resumes from the checkpoint before it and
    # writes the same best.pt again.
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
    """Read and check a checkpoint.

    Raises CheckpointError if the file is missing, damaged, not a checkpoint, or of a newer version.
    """
    return from_record(read_record(path), path)


def is_run(record: object) -> bool:
    """Tell whether `record` is a checkpoint of this program, not of another training program."""
    return isinstance(record, dict) and {"config", "classes"} <= record.keys()


def from_record(record: Any, path: Path) -> Checkpoint:
    """Check what `read_record` read from `path`, and make a Checkpoint. Raises CheckpointError."""
    if not is_run(record):
        raise CheckpointError(
            f"{path} is not a checkpoint of this program; `import` converts torchvision's weights"
        )
    hints = get_type_hints(Checkpoint)
    settings = record["config"]
    if not conforms(settings, dict[str, Any]):
        raise CheckpointError(f"{path} is damaged: its settings are of the wrong type")
    if "init" in settings:  # the old name, before there was a command `init`
        settings["weight_init"] = settings.pop("init")
    unknown = [repr(key) for key in record.keys() - hints.keys()]
    unknown += [repr(key) for key in settings.keys() - Config.__dataclass_fields__.keys()]
    if unknown:
        names = abbreviated(", ".join(sorted(unknown)))
        raise CheckpointError(
            f"{path} was written by a newer version of this program, with {names}; update this one"
        )
    try:
        record["config"] = override(Config(), settings)
    except ConfigError as error:
        raise CheckpointError(f"{path} is damaged: {abbreviated(error)}") from None
    record.setdefault("std", [record["config"].std] * 3)  # older checkpoints do not record it
    for key, field_ in Checkpoint.__dataclass_fields__.items():
        if key not in record and field_.default is MISSING and field_.default_factory is MISSING:
            raise CheckpointError(f"{path} is damaged: {key} is missing")
        if key in record and not conforms(record[key], hints[key]):
            raise CheckpointError(
                f"{path} is damaged: {key} is of the wrong type, {type(record[key]).__name__}"
            )
    state = Checkpoint(**record)
    if problem := _problem(state):
        raise CheckpointError(f"{path} {problem}")
    return state


def _problem(state: Checkpoint) -> str:
    """Describe the first impossible value, given that all types are right; "" if there is none."""
    if state.preprocessing is not None and state.preprocessing not in RECIPES:
        return (
            f"has preprocessing {abbreviated(state.preprocessing, 60)!r}, of a newer version of this "
            "program; update this one"
        )
    for key in ("mean", "std"):
        values = getattr(state, key)
        if len(values) != 3 or not all(math.isfinite(v) and (v > 0 or key == "mean") for v in values):
            return f"is damaged: {key} is {abbreviated(values, 60)}"
    if len(state.classes) < 2:
        return f"is damaged: it has {len(state.classes)} classes"
    for key in ("step", "epoch"):
        if not 0 <= getattr(state, key) < 2**53:
            return f"is damaged: {key} is {abbreviated(getattr(state, key), 60)}"
    for key, values, hint in (
        *(("schedule", state.schedule.get(name, 0), float) for name in ("top1", "waited", "drops")),
        ("scaler", state.scaler, dict[str, float]),
        ("provenance", state.provenance.get("data", ""), str),
        ("provenance", state.provenance.get("images", 0), int),
        ("provenance", state.provenance.get("seconds", 0), float),
        ("provenance", state.provenance.get("split"), dict[str, float] | None),
    ):
        if not conforms(values, hint):
            return f"is damaged: {key} has {abbreviated(repr(values), 60)}"
    for weights in (state.model, state.raw or {}):
        for name, values in weights.items():
            if not values.is_floating_point() or values.layout != torch.strided:
                return f"is damaged: {abbreviated(name, 60)} holds {values.dtype}, {values.layout}"
    for key in ("metrics", "best"):
        values = getattr(state, key)
        if values and not (_measured(values) and ("epoch" in values or key == "metrics")):
            return f"is damaged: {key} is {abbreviated(values, 100)}"
    if state.raw is not None and shapes(state.raw) != shapes(state.model):
        return "is damaged: the trained weights and their average have different shapes"
    return ""


def _measured(values: Mapping[str, Any]) -> bool:
    """Tell whether these are possible counts and accuracies of a validation."""
    counts, shares = (
        [values.get("images"), values.get("epoch", 0)],
        [values.get("top1"), values.get("top5")],
    )
    if not conforms(counts, list[int]) or not conforms(shares, list[float]):
        return False
    (images, _epoch), (top1, top5) = cast(list[int], counts), cast(list[float], shares)
    return images > 0 and 0 <= top1 <= top5 <= 1


def shapes(weights: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    """Return the shape of every tensor by its name."""
    return {name: tuple(values.shape) for name, values in weights.items()}


def misfit(weights: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> str:
    """Describe the first tensor that is missing, unexpected or of the wrong shape; "" if all fit."""
    ours, theirs = shapes(expected), shapes(weights)
    wrong = [name for name in (*ours, *theirs.keys() - ours.keys()) if ours.get(name) != theirs.get(name)]
    if not wrong:
        return ""
    name = wrong[0]
    if name not in ours:
        problem = f"{abbreviated(name, 60)} is not part of it"
    elif name not in theirs:
        problem = f"{name} is missing"
    else:
        shape, other = (" x ".join(map(str, side[name])) for side in (ours, theirs))
        problem = f"{name} is {abbreviated(other, 60)}, not {shape}"
    return f"{problem}, and {len(wrong) - 1} more" if len(wrong) > 1 else problem


def read_record(path: Path) -> Any:
    """Read a file of `torch.save` without running any code in it. Raises CheckpointError."""
    damaged: str | None = None
    try:
        record = torch.load(path, map_location="cpu", weights_only=True)
        if zipfile.is_zipfile(path):  # torch does not verify the checksums that it writes
            with zipfile.ZipFile(path) as file:
                damaged = file.testzip()
    except FileNotFoundError:
        raise CheckpointError(f"{path} does not exist") from None
    except (PermissionError, IsADirectoryError, NotADirectoryError) as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror or error}") from error
    # torch raises whatever its unpickler and zip reader hit, with the advice to run the file's code.
    except Exception as error:
        if "GLOBAL" in str(error):  # a pickle with other classes
            reason = "it holds Python objects, which could run code; save only the network's state_dict()"
        else:
            reason = "it is truncated, or of another kind"
        if path.suffix == ".onnx":
            reason = "it is a model file; `verify` measures it, and `train --from` starts from it"
        raise CheckpointError(f"{path} is not a readable checkpoint: {reason}") from error
    if damaged is not None:
        raise CheckpointError(
            f"{path} is damaged: {abbreviated(damaged, 60)} has the wrong checksum; copy the file again"
        )
    return record
