"""Reads a model file back: what it says of itself, and whether it keeps its word."""

from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import onnx
import torch
from onnx import numpy_helper
from torch import Tensor

from contract.manifest import METADATA_KEY, Manifest, ManifestError, Metrics
from training.data.folders import printable
from training.data.measured_on import VALIDATION, kind_said
from training.errors import ExportError
from training.evaluate import Classify, evaluate
from training.export.graph import Array
from training.export.parity import TOLERANCE, Parity, classifier_of, measure_parity
from training.messages import abbreviated
from training.model import PAPER, AlexNet, Variant
from training.run.checkpoint import misfit
from training.run.held_out import load_held_out, record_in

# Of the mean difference in fp16 and int8: processors round differently, and a file holds rounded weights.
SLACK: Final = 2


@dataclass(frozen=True)
class Verification:
    """What was found again of what the manifest promises; `failures` names each figure that was not."""

    precision: str
    parity: Parity
    promised_mean: float
    promised: tuple[Metrics, ...]
    found: tuple[Metrics, ...]
    notes: tuple[str, ...] = ()
    kind: str = VALIDATION  # what the photographs are to the network

    @property
    def failures(self) -> list[str]:
        """Empty if parity holds and no accuracy is worse than said; a better one keeps the word."""
        measured, failures = self.parity.file_torch64, []
        if self.precision == "fp32":  # within float32's rounding
            if not measured.largest <= TOLERANCE:
                failures.append(
                    f"its probabilities differ from torch's by up to {measured.largest:.1e}, "
                    f"{TOLERANCE:.0e} is allowed"
                )
        elif not measured.mean <= SLACK * self.promised_mean:
            failures.append(
                f"its probabilities differ from torch's by {measured.mean:.1e} on average, "
                f"{self.promised_mean:.1e} is said"
            )
        for promised, found in zip(self.promised, self.found, strict=True):
            for name, said, again in (
                ("top-1", promised.top1, found.top1),
                ("top-5", promised.top5, found.top5),
            ):
                # One image may fall on the other side of a tie on another processor.
                if (said - again) * found.images > 1 + 1e-6:
                    failures.append(
                        f"{name} by {found.crops} crop(s) is {100 * again:.2f} % on {found.images} "
                        f"photographs, {100 * said:.2f} % on {promised.images} is said"
                    )
        return failures


def read_model(path: Path) -> tuple[onnx.ModelProto, Manifest]:
    """Raises ExportError if the file is no sound ONNX model with a manifest of ours."""
    try:
        model = onnx.load(path)
        onnx.checker.check_model(model, full_check=True)
        texts = [entry.value for entry in model.metadata_props if entry.key == METADATA_KEY]
        return model, Manifest.from_json(texts[0] if texts else "")
    except FileNotFoundError:
        raise ExportError(f"{path} does not exist") from None
    except OSError as error:
        raise ExportError(
            f"{path} cannot be read: {error.strerror or error}; name a file of `export`"
        ) from None
    except ManifestError as error:
        raise ExportError(f"{path} has no usable manifest: {abbreviated(error, 240)}") from None
    except Exception as error:  # protobuf's and the checker's exceptions share no base class
        raise ExportError(f"{path} is not a sound ONNX file: {abbreviated(error)}") from error


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
    odd = [m.crops for m in manifest.metrics if m.crops not in {1, 10}]
    if odd:
        raise ExportError(f"{path} says what {odd[0]} crops give; 1 or 10 are measured")
    exported = _classifier_of(model, manifest, path)
    try:
        network = restore_network(model, manifest)
    except ExportError as error:
        raise ExportError(f"{path}: {error}") from None
    record = record_in(manifest)
    measured = load_held_out(data, record)
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
    said = kind_said(manifest.metrics[0].data) if manifest.metrics else VALIDATION
    found = [evaluate(exported, split, manifest.recipe, metrics.crops) for metrics in manifest.metrics]
    return Verification(
        manifest.precision,
        # The division by std is in conv1's weights.
        measure_parity(network, list(manifest.mean), [1.0] * 3, exported, split),
        promised_mean,
        promised=manifest.metrics,
        found=tuple(Metrics(data.name, f.images, f.crops, f.top1, f.top5) for f in found),
        notes=measured.notes,
        kind=measured.kind if measured.kind != VALIDATION else said,
    )


def _classifier_of(model: onnx.ModelProto, manifest: Manifest, path: Path) -> Classify:
    """As `classifier_of`; both raise ExportError for a sound graph that `export` doesn't write."""

    def classify(crops: Tensor) -> Tensor:
        try:
            probabilities = run(crops)
        except Exception as error:  # ONNX Runtime's exceptions share no base class
            raise ExportError(f"{path} cannot be run: {abbreviated(error)}") from error
        if probabilities.shape != (len(crops), len(manifest.classes)):
            raise ExportError(
                f"{path} answers with {tuple(probabilities.shape)}: not what its manifest says"
            )
        return probabilities

    try:
        run = classifier_of(model)
    except Exception as error:
        raise ExportError(f"{path} cannot be run: {abbreviated(error)}") from error
    return classify


def restore_network(model: onnx.ModelProto, manifest: Manifest) -> AlexNet:
    """The network with the weights that the file holds, the division by std folded into conv1.

    Raises ExportError if the manifest's architecture is unknown here, or not that of the weights.
    """
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
        raise ExportError(f"the manifest's architecture is none of ours: {abbreviated(error)}") from None
    try:
        stored = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
        weights = {name: torch.from_numpy(_widened(stored, name)) for name in network.state_dict()}
    except Exception as error:  # what onnx makes of types and sizes that do not fit
        raise ExportError(f"the file's weights cannot be read: {abbreviated(error)}") from error
    if problem := misfit(weights, network.state_dict()):
        raise ExportError(f"the file's weights are not of the network that its manifest says: {problem}")
    network.load_state_dict(weights)
    return network


def _widened(stored: dict[str, Array], name: str) -> Array:
    """The float32 values of what is stored as fp32, fp16, or integers with a scale per channel."""
    if name in stored:
        return stored[name].astype(np.float32)
    kind = "int8" if f"{name}.int8" in stored else "int32"
    levels = stored[f"{name}.{kind}"].astype(np.float32)
    scale = stored[f"{name}.scale"].reshape(-1, *[1] * (levels.ndim - 1))
    return np.asarray(levels * scale)
