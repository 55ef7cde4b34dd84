"""Export a checkpoint as one ONNX file with its manifest, after checking that both compute the same."""

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Final

import onnx

from contract.fields import ManifestError
from contract.manifest import METADATA_KEY, Manifest, Metrics
from contract.manifest import Tensor as Declared
from contract.recipe import DEFAULT_RECIPE
from training.data.folders import printable
from training.data.images import Split, central
from training.data.measured_on import KEY as MEASURED_ON
from training.data.measured_on import VALIDATION, measured_on
from training.errors import ExportError
from training.evaluate import Classify, evaluate, probabilities_of, score, torch_classifier
from training.export.graph import OPSET, build_graph
from training.export.parity import TOLERANCE, classifier_of, difference, max_changed, measure_parity
from training.export.quantize import IMAGES, quantise
from training.export.trust import DEFAULTS, TrustOptions, TrustResult, add_trust, divide_logits
from training.messages import abbreviated
from training.model import AlexNet
from training.run import checkpoint
from training.run.checkpoint import Checkpoint
from training.run.choice import Choice, choose
from training.run.held_out import (
    Measured,
    kind_of,
    load_held_out,
    load_some_training,
    record_of,
)

SUFFIX: Final = ".onnx"
MAX_LOSS: Final = 0.005  # of top-1 accuracy (0 to 1) in fp16 and int8


def export(
    source: Path,
    out: Path,
    precision: str = "fp32",
    version: int = 1,
    data: Path | None = None,
    trust: TrustOptions = DEFAULTS,
) -> Manifest:
    """Export the checkpoint that `choose` takes from the run folder or file `source`."""
    return export_chosen(choose(source), out, precision, version, data, trust)


def model_path(out: Path) -> Path:
    """Append .onnx, the suffix of served files, if it is missing. Raises ExportError for a folder."""
    if out.is_dir():
        raise ExportError(f"{out} is a folder; name the file, such as {out / 'mine.onnx'}")
    return out if out.suffix == SUFFIX else out.with_name(f"{out.name}{SUFFIX}")


def export_chosen(
    choice: Choice,
    out: Path,
    precision: str = "fp32",
    version: int = 1,
    data: Path | None = None,
    trust: TrustOptions = DEFAULTS,
) -> Manifest:
    """Write the model file `out` and return its manifest; an old file stays if any check fails.

    With `data`, accuracy is measured with the file itself, on one crop and on ten, and trust is fitted by
    the options `trust`; without, the manifest has the accuracy of the run's last validation. fp16 and int8
    need `data`: they are accepted if they lose at most MAX_LOSS of top-1 on it. Raises ExportError,
    CheckpointError or DataError.
    """
    path, state = choice.path, choice.state
    if state.config.image_size != DEFAULT_RECIPE.crop:
        raise ExportError(
            f"{path} was trained at image_size {state.config.image_size}; only {DEFAULT_RECIPE.crop} "
            "can be served; start a run at that size from it with --from"
        )
    model = checkpoint.restore_model(state)
    if precision == "int8" and state.config.activation != "relu":
        raise ExportError(
            f"{path} has activation {state.config.activation}; int8 needs relu; use fp32 or fp16"
        )
    try:  # before the slow part, to refuse a bad name or version at once
        manifest = _manifest(state, path, out.stem, version, precision)
    except ManifestError as error:
        raise ExportError(f"{out} is not written: {abbreviated(error, 240)}") from None
    with _replaced(out) as partial:
        measured = None if data is None else load_held_out(data, record_of(state))
        split = None if measured is None else measured.split
        graph, acceptance = _graph_of(state, model, precision, data, split, out)
        fitted = TrustResult()
        if data is not None and measured is not None:
            fitted = add_trust(graph, state, data, measured, trust)
            divide_logits(model, fitted.temperature)
        onnx.checker.check_model(graph, full_check=True)
        exported = classifier_of(graph)
        parity = measure_parity(model, state.mean, state.std, exported, split)
        largest = max(parity.file_torch32.largest, parity.file_torch64.largest)
        if precision == "fp32" and not largest <= TOLERANCE:
            raise ExportError(
                f"{out} is not written: its probabilities differ from torch's by up to {largest:.1e}, "
                f"{TOLERANCE:.0e} is allowed"
            )
        try:
            manifest = replace(
                manifest,
                outputs=manifest.outputs + fitted.outputs,
                trust=fitted.trust,
                metrics=_metrics(state, exported, measured, data),
                training=manifest.training | _measured_on(state, measured) | fitted.record,
                parity=parity.record() | acceptance,
            )
        except ManifestError as error:  # such as an infinite difference
            raise ExportError(f"{out} is not written: {abbreviated(error)}") from None
        entry = graph.metadata_props.add()
        entry.key, entry.value = METADATA_KEY, manifest.to_json()
        with partial.open("wb") as file:
            file.write(graph.SerializeToString())
            file.flush()
            os.fsync(file.fileno())
    return manifest


@contextmanager
def _replaced(out: Path) -> Iterator[Path]:
    """Provide a temporary file beside `out`, which replaces it on success and is removed on failure."""
    partial = out.with_suffix(".partial")
    try:
        if not out.parent.exists():
            out.parent.mkdir(parents=True)
        partial.touch()  # fail before the slow part if it cannot be written
        yield partial
        partial.replace(out)
    except OSError as error:
        raise ExportError(f"{out} cannot be written: {error.strerror or error}") from error
    finally:
        if out.parent.is_dir():
            partial.unlink(missing_ok=True)


def _graph_of(
    state: Checkpoint, model: AlexNet, precision: str, data: Path | None, split: Split | None, out: Path
) -> tuple[onnx.ModelProto, dict[str, Any]]:
    """Build the graph -> the graph and, for fp16 and int8, the measurement by which it was accepted."""
    if precision == "fp32":
        return build_graph(model, state.mean, state.std, precision), {}
    if data is None or split is None:
        raise ExportError(
            f"--precision {precision} needs --data, to measure what it loses: pass the training folder"
        )
    expected = probabilities_of(torch_classifier(model, state.mean, state.std), split, state.recipe)
    top1 = score(expected, split.labels).top1
    measurement: dict[str, Any] = {}

    def passes(graph: onnx.ModelProto) -> bool:
        measured = probabilities_of(classifier_of(graph), split, state.recipe)
        agreement = difference(measured, expected).agreement
        rounded_top1 = score(measured, split.labels).top1
        measurement.update(agreement=agreement, top1=rounded_top1, top1_fp32=top1)
        changed = round((1 - agreement) * len(split))
        return changed <= max_changed(len(split)) and top1 - rounded_top1 <= MAX_LOSS

    if precision == "fp16":
        graph = build_graph(model, state.mean, state.std, precision)
        result: tuple[onnx.ModelProto, list[str]] | None = (graph, []) if passes(graph) else None
    else:
        squares = load_some_training(data, record_of(state), IMAGES)
        result = quantise(model, state.mean, state.std, central(squares, state.recipe), passes)
    if result is None:
        raise ExportError(
            f"{out} is not written: in {precision} top-1 is {measurement['top1']:.2%} instead of "
            f"{top1:.2%}, and {measurement['agreement']:.2%} of {len(split)} answers are the same; at most "
            f"{100 * MAX_LOSS} points less and {max_changed(len(split))} changed answers are allowed"
        )
    graph, floating = result
    return graph, {"acceptance": {"images": len(split), **measurement, "layers_in_float": floating}}


def _metrics(
    state: Checkpoint, exported: Classify, measured: Measured | None, data: Path | None
) -> tuple[Metrics, ...]:
    """Measure the exported file, or without `measured` take the metrics of the last validation."""
    if measured is None:
        if not state.metrics:
            return ()
        name = f"{state.provenance.get('data', 'unknown data')} ({_own_kind(state)[0]})"
        images, top1, top5 = (state.metrics[key] for key in ("images", "top1", "top5"))
        return (Metrics(name, images, 1, top1, top5),)
    assert data is not None
    name = f"{printable(data.resolve().name)} ({measured.kind})"
    results = [evaluate(exported, measured.split, state.recipe, crops) for crops in (1, 10)]
    return tuple(Metrics(name, r.images, r.crops, r.top1, r.top5) for r in results)


def _measured_on(state: Checkpoint, measured: Measured | None) -> dict[str, Any]:
    """Make the entry of `manifest.training` that says which photographs were measured."""
    if measured is not None:
        return {MEASURED_ON: measured_on(measured.split.digests, measured.notes)}
    if not state.held_out or not state.metrics:
        return {}
    return {MEASURED_ON: measured_on(state.held_out["digests"], _own_kind(state)[1])}


def _own_kind(state: Checkpoint) -> tuple[str, tuple[str, ...]]:
    """Return what `kind_of` says of the photographs that the run was validated on."""
    record = record_of(state)
    return (VALIDATION, ()) if record.held_out is None else kind_of(record.held_out, record)


def _manifest(
    state: Checkpoint,
    path: Path,
    name: str,
    version: int,
    precision: str,
) -> Manifest:
    """Build the manifest without metrics and parity, which are measured later. Raises ManifestError."""
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
        precision=precision,
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
                "the last convolution after its activation: feature maps",
            ),
        ),
        training={
            # Imported networks were not trained with these settings.
            "config": asdict(state.config) if state.step else {},
            "epochs": state.epoch,
            "checkpoint_sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
            **state.provenance,
        },
    )
