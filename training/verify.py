"""Reads a model file back: what it says of itself, and whether it keeps its word."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import torch
from onnx import numpy_helper

from contract.manifest import METADATA_KEY, Manifest, ManifestError, Metrics
from training.evaluate import evaluate, torch_classifier
from training.export import BATCHES, TOLERANCE, ExportError, largest_difference, session_classifier
from training.graph import Array
from training.model import PAPER, AlexNet, Variant, weighted_layers
from training.prepared import load_held_out


@dataclass(frozen=True)
class Verification:
    """`kept` says whether parity and every accuracy of the manifest were found again."""

    difference: float
    promised: tuple[Metrics, ...]
    found: tuple[Metrics, ...]

    @property
    def kept(self) -> bool:
        # One image may fall on the other side of a tie on another processor.
        return self.difference <= TOLERANCE and all(
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


def verify(path: Path, data: Path) -> Verification:
    """Runs the file against PyTorch with the weights that it holds, and measures it on `data`'s
    validation images as often as its manifest has metrics. Raises ExportError or DataError.
    """
    model, manifest = read_model(path)
    network = restore_network(model, manifest)
    reference = torch_classifier(network, manifest.mean, (1, 1, 1))
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    exported = session_classifier(session)
    split = load_held_out(data, manifest.classes, manifest.training, manifest.recipe)
    found = [evaluate(exported, split, manifest.recipe, metrics.crops) for metrics in manifest.metrics]
    return Verification(
        difference=max(largest_difference(reference, exported, split, count) for count in BATCHES),
        promised=manifest.metrics,
        found=tuple(Metrics(data.name, f.images, f.crops, f.top1, f.top5) for f in found),
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
        layer.weight.data = torch.from_numpy(_weight(stored, f"{name}.weight"))
        layer.bias.data = torch.from_numpy(stored[f"{name}.bias"].copy())
    return network


def _weight(stored: dict[str, Array], name: str) -> Array:
    """The float32 values of a weight that is stored as fp32, fp16 or int8 with a scale."""
    if f"{name}.int8" in stored:
        return np.asarray(stored[f"{name}.int8"].astype(np.float32) * stored[f"{name}.scale"])
    return stored[f"{name}.fp16" if f"{name}.fp16" in stored else name].astype(np.float32)
