"""A checkpoint -> one ONNX file with its manifest inside, proven equal before it gets its name."""

import hashlib
from dataclasses import asdict, replace
from pathlib import Path
from typing import Final

import numpy as np
import onnx
import onnxruntime as ort
import torch
from torch import Tensor

from contract.manifest import METADATA_KEY, Manifest, ManifestError, Metrics
from contract.manifest import Tensor as Declared
from contract.recipe import DEFAULT_RECIPE
from training import checkpoint
from training.checkpoint import Checkpoint
from training.data import Split
from training.evaluate import Classify, evaluate, torch_classifier
from training.graph import OPSET, build_graph
from training.prepared import load_held_out

TOLERANCE: Final = 1e-5  # of a probability, between torch and ONNX Runtime
BATCHES: Final = (1, 2, 3, 32, 257)


class ExportError(RuntimeError):
    """The file cannot be written or is not equal to the checkpoint; nothing is left behind."""


def export(
    source: Path, out: Path, weights: str = "fp32", version: int = 1, data: Path | None = None
) -> Manifest:
    """Writes `out`, replacing it only by a file that passed every check, and returns its manifest.

    `source` is a run folder or a checkpoint. With `data`, accuracy is measured with the file itself,
    on one crop and on ten; without, the training's last validation is reported. Raises ExportError,
    CheckpointError or DataError.
    """
    path = checkpoint.find(source)
    state = checkpoint.load(path)
    if state.config.image_size != DEFAULT_RECIPE.crop:
        raise ExportError(
            f"{path} was trained at image_size {state.config.image_size}; only {DEFAULT_RECIPE.crop} "
            "can be served: train on from it with --weights"
        )
    try:  # before the long part: a name or version that cannot be is refused at once
        manifest = _manifest(state, path, out.stem, version, weights)
    except ManifestError as error:
        raise ExportError(f"{out} is not written: {error}") from None
    split = None
    if data is not None:
        split = load_held_out(data, state.classes, state.provenance, state.recipe)
    model = checkpoint.restore_model(state)
    graph = build_graph(model, state.mean, state.std, weights)
    reference = torch_classifier(model, state.mean, state.std)

    partial = out.with_suffix(".partial")
    try:
        onnx.save(graph, partial)
        onnx.checker.check_model(str(partial), full_check=True)
        session = ort.InferenceSession(str(partial), providers=["CPUExecutionProvider"])
        exported = session_classifier(session)
        difference = max(largest_difference(reference, exported, split, count) for count in BATCHES)
        if not difference <= TOLERANCE:
            raise ExportError(
                f"{out} is not written: its probabilities differ from torch's by up to {difference:.1e}, "
                f"{TOLERANCE:.0e} is allowed"
            )
        manifest = replace(
            manifest,
            metrics=_metrics(state, exported, split, data),
            parity={"max_difference": difference, "batches": list(BATCHES)},
        )
        entry = graph.metadata_props.add()
        entry.key, entry.value = METADATA_KEY, manifest.to_json()
        onnx.save(graph, partial)
        partial.replace(out)
    finally:
        partial.unlink(missing_ok=True)
    return manifest


def session_classifier(session: ort.InferenceSession) -> Classify:
    def classify(crops: Tensor) -> Tensor:
        (probabilities,) = session.run(["probabilities"], {"images": crops.numpy()})
        return torch.from_numpy(np.asarray(probabilities))

    return classify


def largest_difference(reference: Classify, exported: Classify, split: Split | None, count: int) -> float:
    """Of any probability in a batch of `count` crops: of real pictures where there are enough."""
    size = DEFAULT_RECIPE.crop
    if split is not None and len(split) >= count:
        crops = split.squares[:count, :size, :size].contiguous()
    else:
        shape = (count, size, size, 3)
        generator = torch.Generator().manual_seed(count)
        crops = torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)
    # NaN compares as false with everything, so it counts as an infinite difference.
    gap = (reference(crops) - exported(crops)).abs().nan_to_num(torch.inf)
    return gap.max().item()


def _metrics(
    state: Checkpoint, exported: Classify, split: Split | None, data: Path | None
) -> tuple[Metrics, ...]:
    name = data.resolve().name if data is not None else state.provenance["data"]
    measured_on = f"{name} (validation)"
    if split is None:
        return (Metrics(measured_on, crops=1, **state.metrics),) if state.metrics else ()
    results = [evaluate(exported, split, state.recipe, crops) for crops in (1, 10)]
    return tuple(Metrics(measured_on, r.images, r.crops, r.top1, r.top5) for r in results)


def _manifest(
    state: Checkpoint,
    path: Path,
    name: str,
    version: int,
    weights: str,
) -> Manifest:
    """All but what the file is yet to be measured for: metrics and parity. Raises ManifestError."""
    size = state.recipe.crop
    mean, std = ((red, green, blue) for red, green, blue in (state.mean, state.std))
    classes, features, channels = (len(state.model[f"{n}.bias"]) for n in ("fc8", "fc7", "conv5"))
    return Manifest(
        name=name,
        version=version,
        architecture={
            "name": "alexnet",
            "variant": state.config.arch,
            "width": state.config.width,
            "activation": state.config.activation,
            "lrn": state.config.lrn and state.config.arch != "torchvision",
            "pooling": state.config.pooling,
        },
        classes=state.classes,
        recipe=state.recipe,
        mean=mean,
        std=std,
        opset=OPSET,
        weights=weights,
        inputs=(Declared("images", "uint8", (None, size, size, 3), "RGB pixels in sRGB, 0 to 255"),),
        outputs=(
            Declared("probabilities", "float32", (None, classes), "softmax, in the order of `classes`"),
            Declared(
                "fc7", "float32", (None, features), "the last hidden layer after its activation: features"
            ),
            Declared(
                "conv5",
                "float32",
                (None, channels, 13, 13),
                "the last convolution after its activation: what is where",
            ),
        ),
        training={
            # Of what nobody has trained here, settings of a training would be an invention.
            "config": asdict(state.config) if state.step else {},
            "epochs": state.epoch,
            "checkpoint_sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
            **state.provenance,
        },
    )
