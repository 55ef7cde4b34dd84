"""Read the weights that a run starts from: of a run, a model file, safetensors, or torchvision."""

import json
import math
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Final

import torch
from safetensors.torch import save as serialised
from torch import Tensor

from contract.manifest import METADATA_KEY
from training.config import Config, override
from training.conforms import conforms
from training.data.measured_on import KEY as MEASURED_ON
from training.data.measured_on import PLAIN, kind_in
from training.errors import CheckpointError, ConfigError, ExportError
from training.export.verify import read_model, restore_network
from training.messages import abbreviated
from training.run.checkpoint import Checkpoint, from_record, is_run, read_record
from training.run.choice import choose
from training.start.published import LAYERS, MEAN, STD, imagenet_classes, to_alexnet
from training.start.tensorfile import SUFFIX, plain, read_safetensors

SHAPE: Final = ("width", "arch", "activation", "lrn", "pooling")  # the settings that weights depend on
FORMAT: Final = 1  # of the metadata in safetensors files of this program
_METADATA: Final = {
    "format": int,
    "shape": dict[str, Any],
    "mean": list[float],
    "std": list[float],
    "classes": list[str],
    "provenance": dict[str, Any],
}
BASES: Final = Path(__file__).parent  # base-WIDTH.safetensors


@dataclass(frozen=True)
class Start:
    """Weights to start from, in float32, of all or some layers, with the settings they depend on.

    `description` names them in messages. `shape` has the settings of SHAPE. The network takes
    (pixel - mean) / std, on the scale 0 to 255. `classes` name the rows of fc8, () if unknown. `checkpoint`
    is set if the source is a run.
    """

    description: str
    weights: Mapping[str, Tensor]
    shape: dict[str, Any]
    mean: list[float]
    std: list[float]
    classes: tuple[str, ...] = ()
    provenance: dict[str, Any] = field(default_factory=dict)
    checkpoint: Checkpoint | None = None


def read_start(source: str, width: float) -> Start:
    """Read the weights of `--from`: "base" of that `width`, a run folder, or a file.

    Raises CheckpointError.
    """
    path = _base(width) if source == "base" else Path(source)
    try:
        start = _read(path)
    except ExportError as error:
        raise CheckpointError(str(error)) from None
    if not all(values.isfinite().all() for values in start.weights.values()):
        raise CheckpointError(f"{path} holds NaN or infinity: it diverged; take an earlier checkpoint")
    outputs = {values.shape[:1] for name, values in start.weights.items() if name.startswith("fc8.")}
    if start.classes and outputs != {(len(start.classes),)}:
        raise CheckpointError(f"{path} is damaged: its {len(start.classes)} classes are not those of fc8")
    return replace(start, description=f"the base network of width {width}") if source == "base" else start


def base_widths() -> list[float]:
    """Return the widths for which a base network is shipped, ascending."""
    return sorted(float(path.stem.removeprefix("base-")) for path in BASES.glob(f"base-*{SUFFIX}"))


def _base(width: float) -> Path:
    """Return the file of the shipped base network of that width. Raises CheckpointError."""
    path = BASES / f"base-{width}{SUFFIX}"
    if not path.is_file():
        shipped = map(str, base_widths())
        raise CheckpointError(
            f"there is no base network of width {width}; --width {' or '.join(shipped)} has one, "
            "and --from scratch needs none"
        )
    return path


def _read(path: Path) -> Start:
    suffix = path.suffix.lower()
    if path.is_dir():
        choice = choose(path)
        return _of_run(f"{path} ({choice.description})", choice.state)
    if suffix == ".onnx":
        return _of_model_file(path)
    if suffix == SUFFIX:
        tensors, metadata = read_safetensors(path)
        if METADATA_KEY in metadata:
            return _of_safetensors(path, tensors, metadata[METADATA_KEY])
        return _of_torchvision(path, plain(tensors, path))
    record = read_record(path)
    if is_run(record):
        return _of_run(str(path), from_record(record, path))
    return _of_torchvision(path, plain(record, path))


def _of_run(description: str, state: Checkpoint) -> Start:
    config = asdict(state.config)
    return Start(
        description,
        _floats(state.model),
        _shape_of(config),
        state.mean,
        state.std,
        # Base networks, trained on several sets at once, have no fc8, and classes of the same name.
        state.classes if "fc8.bias" in state.model else (),
        {"config": config, **state.provenance},
        state,
    )


def _of_model_file(path: Path) -> Start:
    """Read a file of `export`; the division by std is taken out of conv1 again."""
    model, manifest = read_model(path)
    try:
        network = restore_network(model, manifest)
    except ExportError as error:
        raise CheckpointError(f"{path}: {error}") from None
    std = list(manifest.std)
    network.conv1.weight.data *= torch.tensor(std)[:, None, None]
    variant = asdict(network.variant) | {"width": float(manifest.architecture["width"])}
    training = dict(manifest.training)
    if not all(kind_in(metrics.data) in PLAIN for metrics in manifest.metrics):
        training.pop(MEASURED_ON, None)  # they were not held out
    return Start(
        f"{path} ({manifest.name} version {manifest.version}, {manifest.precision})",
        network.state_dict(),
        _shape_of(variant),
        list(manifest.mean),
        std,
        manifest.classes,
        {**training, "model": f"{manifest.name} version {manifest.version}, {manifest.precision}"},
    )


def _of_torchvision(path: Path, tensors: Mapping[str, Tensor]) -> Start:
    """Read a state dict of torchvision's AlexNet, whose names and normalisation are known."""
    if any(name.split(".")[0] in LAYERS.values() for name in tensors):
        raise CheckpointError(
            f"{path} holds only weights, without the mean and std of their pixels; use the run's "
            "last.pt, or a file of `export`"
        )
    try:
        weights = _floats(to_alexnet(tensors))
    except CheckpointError as error:
        raise CheckpointError(f"{path} is not a usable AlexNet of torchvision's: {error}") from None
    outputs = len(weights["fc8.bias"])
    return Start(
        f"{path} (torchvision's AlexNet, {outputs} outputs)",
        weights,
        {"width": 1.0, "arch": "torchvision", "activation": "relu", "pooling": "overlapping"},
        [255 * value for value in MEAN],
        [255 * value for value in STD],
        imagenet_classes() if outputs == 1000 else (),
        {"data": "of torchvision's AlexNet", "source": path.name},
    )


def _of_safetensors(path: Path, tensors: Mapping[str, Tensor], text: str) -> Start:
    """Read a file of `write_safetensors`."""
    try:
        metadata = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise CheckpointError(
            f"{path} is damaged: its metadata is not JSON: {abbreviated(error)}"
        ) from None
    if not isinstance(metadata, dict):
        raise CheckpointError(f"{path} is damaged: its metadata is not an object")
    shape = metadata.get("shape")
    unknown = metadata.keys() - _METADATA.keys() or (isinstance(shape, dict) and shape.keys() - set(SHAPE))
    if unknown or metadata.get("format") != FORMAT:
        raise CheckpointError(f"{path} was written by a newer version of this program; update this one")
    for key, hint in _METADATA.items():
        if not conforms(metadata.get(key), hint):
            raise CheckpointError(f"{path} is damaged: {key} is {abbreviated(metadata.get(key), 60)}")
    try:
        shape = {key: getattr(override(Config(), metadata["shape"]), key) for key in metadata["shape"]}
    except ConfigError as error:
        raise CheckpointError(f"{path} is damaged: {abbreviated(error)}") from None
    if (
        len(metadata["mean"]) != 3
        or len(metadata["std"]) != 3
        or not all(0 < v < math.inf for v in metadata["std"])
    ):
        raise CheckpointError(
            f"{path} is damaged: mean is {metadata['mean'][:4]}, std {metadata['std'][:4]}"
        )
    return Start(
        str(path),
        _floats(plain(tensors, path)),
        shape,
        metadata["mean"],
        metadata["std"],
        tuple(metadata["classes"]),
        {"config": shape, **metadata["provenance"]},
    )


def write_safetensors(path: Path, start: Start) -> None:
    """Write weights, in the precision that they have, and their metadata; replace `path` atomically.

    Raises CheckpointError.
    """
    metadata = {
        "format": FORMAT,
        "shape": start.shape,
        "mean": start.mean,
        "std": start.std,
        "classes": start.classes,
        "provenance": start.provenance,
    }
    assert metadata.keys() == _METADATA.keys()
    tensors = {name: values.contiguous() for name, values in start.weights.items()}
    partial = path.with_suffix(".partial")
    try:
        with partial.open("wb") as file:
            file.write(serialised(tensors, {METADATA_KEY: json.dumps(metadata, ensure_ascii=False)}))
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except OSError as error:
        raise CheckpointError(f"{path} cannot be written: {error.strerror or error}") from error
    finally:
        partial.unlink(missing_ok=True)


def _shape_of(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Select the settings of SHAPE; torchvision's variant has no LRN, whatever `lrn` is."""
    return {key: settings[key] for key in SHAPE if (key, settings["arch"]) != ("lrn", "torchvision")}


def _floats(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: values.float() for name, values in weights.items()}
