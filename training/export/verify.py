"""Read a model file back, print its manifest, and verify its parity and accuracy."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import onnx
import torch
from onnx import numpy_helper
from torch import Tensor

from contract.fields import ManifestError
from contract.manifest import METADATA_KEY, Manifest, Metrics
from contract.trust import Trust
from training.data.folders import printable
from training.data.measured_on import VALIDATION, kind_in
from training.errors import ExportError
from training.evaluate import Classify, evaluate
from training.export.graph import Array
from training.export.parity import TOLERANCE, Parity, classifier_of, measure_parity
from training.export.trust import measure_again
from training.export.trust_text import trust_failures, trust_lines
from training.messages import abbreviated
from training.model import PAPER, AlexNet, Variant
from training.run.checkpoint import misfit
from training.run.held_out import load_held_out, record_in

# Factor on the mean difference in fp16 and int8: processors round differently.
SLACK: Final = 2


@dataclass(frozen=True)
class Verification:
    """The measurements of a model file, beside those that its manifest records.

    `expected` are the manifest's metrics, `measured` the same ones now; `expected_mean` is the manifest's
    mean difference from torch in float64, `parity` has the one measured now. `kind` says how the
    photographs relate to the training of the network. `trust` is fitted and measured again.
    """

    precision: str
    parity: Parity
    expected_mean: float
    expected: tuple[Metrics, ...]
    measured: tuple[Metrics, ...]
    notes: tuple[str, ...] = ()
    kind: str = VALIDATION
    expected_trust: Trust | None = None
    trust: Trust | None = None

    @property
    def failures(self) -> list[str]:
        """A line for each figure that is worse than recorded; empty if the file passes."""
        difference, failures = self.parity.file_torch64, []
        if self.precision == "fp32":  # within float32's rounding
            if not difference.largest <= TOLERANCE:
                failures.append(
                    f"its probabilities differ from torch's by up to {difference.largest:.1e}, "
                    f"{TOLERANCE:.0e} is allowed"
                )
        elif not difference.mean <= SLACK * self.expected_mean:
            failures.append(
                f"its probabilities differ from torch's by {difference.mean:.1e} on average, "
                f"the manifest has {self.expected_mean:.1e}"
            )
        for expected, measured in zip(self.expected, self.measured, strict=True):
            for name, recorded, now in (
                ("top-1", expected.top1, measured.top1),
                ("top-5", expected.top5, measured.top5),
            ):
                # On another processor, a tie may turn out differently for one image.
                if (recorded - now) * measured.images > 1 + 1e-6:
                    failures.append(
                        f"{name} with {measured.crops} crop(s) is {100 * now:.2f} % on {measured.images} "
                        f"photographs, the manifest has {100 * recorded:.2f} % on {expected.images}"
                    )
        return failures + trust_failures(self.expected_trust, self.trust)


def read_model(path: Path) -> tuple[onnx.ModelProto, Manifest]:
    """Read a model file and its manifest.

    Raises ExportError if it cannot be read, is not a valid ONNX model, or has no manifest of this program.
    """
    try:
        model = onnx.load(path)
        onnx.checker.check_model(model, full_check=True)
        texts = [entry.value for entry in model.metadata_props if entry.key == METADATA_KEY]
        return model, Manifest.from_json(texts[0] if texts else "")
    except FileNotFoundError:
        raise ExportError(f"{path} does not exist") from None
    except OSError as error:
        raise ExportError(
            f"{path} cannot be read: {error.strerror or error}; name a file written by `export`"
        ) from None
    except ManifestError as error:
        raise ExportError(f"{path} has no usable manifest: {abbreviated(error, 240)}") from None
    except Exception as error:  # protobuf's and the checker's exceptions share no base class
        raise ExportError(f"{path} is not a valid ONNX file: {abbreviated(error)}") from error


def manifest_text(manifest: Manifest) -> str:
    """Format a manifest as text, with a line for each entry."""
    architecture, recipe = manifest.architecture, manifest.recipe
    run = dict(manifest.training)
    config = run.pop("config", {})
    lines = [f"{manifest.name} version {manifest.version}, {manifest.precision}, opset {manifest.opset}"]

    def line(title: str, text: object) -> None:
        lines.append(f"  {title:14} {text}")

    line("architecture", ", ".join(f"{key} {value}" for key, value in architecture.items()))
    line("classes", f"{len(manifest.classes)}: {', '.join(manifest.classes)}")
    for side, tensors in (("input", manifest.inputs), ("output", manifest.outputs)):
        for tensor in tensors:
            shape = " x ".join("N" if size is None else str(size) for size in tensor.shape)
            line(side, f"{tensor.name}: {tensor.dtype} {shape}, {tensor.meaning}")
    line("preprocessing", f"{recipe.id}: resize {recipe.resize}, crop {recipe.crop}")
    for key, values in (("mean", manifest.mean), ("std", manifest.std)):
        line(key, " ".join(f"{value:.2f}" for value in values))
    if manifest.trust is not None:
        for text in trust_lines(manifest.trust):
            line("trust", text)
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
    """Format a nested record in one line, without the digests of photographs."""
    if isinstance(value, dict):
        return ", ".join(f"{key} {_pairs(inner)}" for key, inner in value.items() if key != "digests")
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def verify(path: Path, data: Path, unfamiliar: Sequence[Path] = ()) -> Verification:
    """Measure a model file's parity with PyTorch, and its accuracy on its validation photographs.

    `data` is the folder with these photographs. Each metric of the manifest is measured again, on 1 or 10
    crops, and its section `trust`, with those of its folders of unfamiliar pictures that are given. Raises
    ExportError or DataError.
    """
    model, manifest = read_model(path)
    unsupported = [m.crops for m in manifest.metrics if m.crops not in {1, 10}]
    if unsupported:
        raise ExportError(
            f"{path} records the accuracy on {unsupported[0]} crops; only 1 or 10 can be measured"
        )
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
        expected_mean = float(manifest.parity["file_torch64"]["mean"])
    except (KeyError, TypeError, ValueError):
        raise ExportError(f"{path} has no parity with torch in its manifest") from None
    recorded_kind = kind_in(manifest.metrics[0].data) if manifest.metrics else VALIDATION
    results = [evaluate(exported, split, manifest.recipe, metrics.crops) for metrics in manifest.metrics]
    return Verification(
        manifest.precision,
        # std is 1 here: conv1's weights include the division.
        measure_parity(network, list(manifest.mean), [1.0] * 3, exported, split),
        expected_mean,
        expected=manifest.metrics,
        measured=tuple(Metrics(data.name, r.images, r.crops, r.top1, r.top5) for r in results),
        notes=measured.notes,
        expected_trust=manifest.trust,
        trust=None if manifest.trust is None else measure_again(model, manifest, split, unfamiliar),
        kind=measured.kind if measured.kind != VALIDATION else recorded_kind,
    )


def _classifier_of(model: onnx.ModelProto, manifest: Manifest, path: Path) -> Classify:
    """Return a function that runs `model`, as `classifier_of`.

    Both raise ExportError for a valid graph that `export` would not write.
    """

    def classify(crops: Tensor) -> Tensor:
        try:
            probabilities = run(crops)
        except Exception as error:  # ONNX Runtime's exceptions share no base class
            raise ExportError(f"{path} cannot be run: {abbreviated(error)}") from error
        if probabilities.shape != (len(crops), len(manifest.classes)):
            raise ExportError(
                f"{path} returns probabilities of shape {tuple(probabilities.shape)}, unlike its manifest"
            )
        return probabilities

    try:
        run = classifier_of(model)
    except Exception as error:
        raise ExportError(f"{path} cannot be run: {abbreviated(error)}") from error
    return classify


def restore_network(model: onnx.ModelProto, manifest: Manifest) -> AlexNet:
    """Rebuild the network from the file's weights; conv1 includes the division by std.

    Raises ExportError if the manifest's architecture is unknown, or does not fit the weights.
    """
    architecture = manifest.architecture
    try:
        variant = Variant(
            architecture["variant"],
            # Older files of the paper's network do not record these.
            architecture.get("activation", PAPER.activation),
            architecture.get("lrn", PAPER.lrn),
            architecture.get("pooling", PAPER.pooling),
        )
        network = AlexNet(len(manifest.classes), float(architecture["width"]), variant=variant).eval()
    except (KeyError, TypeError, ValueError) as error:
        raise ExportError(f"the manifest's architecture is unknown: {abbreviated(error)}") from None
    try:
        stored = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
        weights = {name: torch.from_numpy(_widened(stored, name)) for name in network.state_dict()}
    except Exception as error:  # of onnx, for bad types and sizes
        raise ExportError(f"the file's weights cannot be read: {abbreviated(error)}") from error
    if problem := misfit(weights, network.state_dict()):
        raise ExportError(f"the file's weights do not fit the network of its manifest: {problem}")
    network.load_state_dict(weights)
    return network


def _widened(stored: dict[str, Array], name: str) -> Array:
    """Read an initializer stored as fp32, fp16, or integers with a scale per channel -> float32."""
    if name in stored:
        return stored[name].astype(np.float32)
    kind = "int8" if f"{name}.int8" in stored else "int32"
    levels = stored[f"{name}.{kind}"].astype(np.float32)
    scale = stored[f"{name}.scale"].reshape(-1, *[1] * (levels.ndim - 1))
    return np.asarray(levels * scale)
