"""Reads a model file back: what it says of itself, and whether it keeps its word."""

from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import onnx
import torch
from onnx import numpy_helper

from contract.manifest import METADATA_KEY, Manifest, ManifestError, Metrics
from training.evaluate import evaluate
from training.export import ExportError
from training.folders import printable
from training.graph import Array
from training.held_out import load_held_out, record_in
from training.model import PAPER, AlexNet, Variant, weighted_layers
from training.parity import TOLERANCE, Parity, classifier_of, measure_parity

# Of the mean difference in fp16 and int8: processors round differently, and a file holds rounded weights.
SLACK: Final = 2


@dataclass(frozen=True)
class Verification:
    """`kept` says whether parity and every accuracy of the manifest were found again."""

    precision: str
    parity: Parity
    promised_mean: float
    promised: tuple[Metrics, ...]
    found: tuple[Metrics, ...]
    notes: tuple[str, ...] = ()

    @property
    def equal(self) -> bool:
        """To torch: within float32's rounding, or no farther from it than the file says."""
        if self.precision == "fp32":
            return self.parity.file_torch64.largest <= TOLERANCE
        return self.parity.file_torch64.mean <= SLACK * self.promised_mean

    @property
    def kept(self) -> bool:
        # One image may fall on the other side of a tie on another processor.
        return self.equal and all(
            abs(p.top1 - f.top1) <= 1 / f.images and abs(p.top5 - f.top5) <= 1 / f.images
            for p, f in zip(self.promised, self.found, strict=True)
        )


def read_model(path: Path) -> tuple[onnx.ModelProto, Manifest]:
    """Raises ExportError if the file is no sound ONNX model with a manifest of ours."""
    try:
        model = onnx.load(path)
        onnx.checker.check_model(model, full_check=True)
        texts = [entry.value for entry in model.metadata_props if entry.key == METADATA_KEY]
        return model, Manifest.from_json(texts[0] if texts else "")
    except FileNotFoundError:
        raise ExportError(f"{path} does not exist") from None
    except ManifestError as error:
        raise ExportError(f"{path} has no usable manifest: {error}") from None
    except Exception as error:  # protobuf's and the checker's exceptions share no base class
        raise ExportError(f"{path} is not a sound ONNX file: {str(error).splitlines()[0]}") from error


def manifest_text(manifest: Manifest) -> str:
    """For people: a line for each thing that the manifest says."""
    said, run, recipe = manifest.architecture, dict(manifest.training), manifest.recipe
    config = run.pop("config", {})
    lines = [f"{manifest.name} version {manifest.version}, {manifest.precision}, opset {manifest.opset}"]

    def line(title: str, text: object) -> None:
        lines.append(f"  {title:14} {text}")

    line("architecture", ", ".join(f"{key} {value}" for key, value in said.items()))
    line("classes", f"{len(manifest.classes)}: {', '.join(manifest.classes)}")
    for side, tensors in (("input", manifest.inputs), ("output", manifest.outputs)):
        for tensor in tensors:
            shape = " x ".join("N" if size is None else str(size) for size in tensor.shape)
            line(side, f"{tensor.name}: {tensor.dtype} {shape}, {tensor.meaning}")
    line("preprocessing", f"{recipe.id}: resize {recipe.resize}, crop {recipe.crop}")
    for key, values in (("mean", manifest.mean), ("std", manifest.std)):
        line(key, " ".join(f"{value:.2f}" for value in values))
    for m in manifest.metrics:
        accuracy = f"top-1 {m.top1:.2%}, top-5 {m.top5:.2%}"
        line("accuracy", f"{accuracy} of {m.images} images, {m.crops} crop(s), {m.data}")
    for key, value in manifest.parity.items():
        line("parity", f"{key} {_pairs(value)}")
    for key, value in run.items():
        line("training", f"{key} {_pairs(value)}")
    line("settings", _pairs(config))
    return "\n".join(lines)


def _pairs(value: object) -> str:
    """A record's keys and values, one after the other, without the digests of photographs."""
    if isinstance(value, dict):
        return ", ".join(f"{key} {_pairs(inner)}" for key, inner in value.items() if key != "digests")
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def verify(path: Path, data: Path) -> Verification:
    """Runs the file against PyTorch with the weights that it holds, and measures it on `data`'s
    validation images as often as its manifest has metrics. Raises ExportError or DataError.
    """
    model, manifest = read_model(path)
    exported = classifier_of(model)
    record = record_in(manifest)
    measured = load_held_out(data, record, everywhere=True)
    if measured.lacking:
        assert record.held_out is not None
        raise ExportError(
            f"{path} cannot be verified on {printable(data)}: its accuracy was measured on "
            f"{len(record.held_out):,} photographs, of which {measured.lacking:,} are missing or changed"
        )
    split = measured.split
    try:
        promised_mean = float(manifest.parity["file_torch64"]["mean"])
    except (KeyError, TypeError, ValueError):
        raise ExportError(f"{path} says nothing of its parity with torch") from None
    found = [evaluate(exported, split, manifest.recipe, metrics.crops) for metrics in manifest.metrics]
    return Verification(
        manifest.precision,
        # The division by std is in conv1's weights.
        measure_parity(restore_network(model, manifest), list(manifest.mean), [1.0] * 3, exported, split),
        promised_mean,
        promised=manifest.metrics,
        found=tuple(Metrics(data.name, f.images, f.crops, f.top1, f.top5) for f in found),
        notes=measured.notes,
    )


def restore_network(model: onnx.ModelProto, manifest: Manifest) -> AlexNet:
    """The network with the weights that the file holds, the division by std folded into conv1.

    Raises ExportError if the manifest's architecture is unknown here.
    """
    stored = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    said = manifest.architecture
    try:
        variant = Variant(
            said["variant"],
            # Files of the paper's own network need not say these.
            said.get("activation", PAPER.activation),
            said.get("lrn", PAPER.lrn),
            said.get("pooling", PAPER.pooling),
        )
        network = AlexNet(len(manifest.classes), float(said["width"]), variant=variant).eval()
    except (KeyError, TypeError, ValueError) as error:
        raise ExportError(f"the manifest's architecture is none of ours: {error}") from None
    for name, layer in weighted_layers(network):
        assert layer.bias is not None
        layer.weight.data = torch.from_numpy(_widened(stored, f"{name}.weight"))
        layer.bias.data = torch.from_numpy(_widened(stored, f"{name}.bias"))
    return network


def _widened(stored: dict[str, Array], name: str) -> Array:
    """The float32 values of what is stored as fp32, fp16, or integers with a scale per channel."""
    if name in stored:
        return stored[name].astype(np.float32)
    kind = "int8" if f"{name}.int8" in stored else "int32"
    levels = stored[f"{name}.{kind}"].astype(np.float32)
    scale = stored[f"{name}.scale"].reshape(-1, *[1] * (levels.ndim - 1))
    return np.asarray(levels * scale)
