"""Add to a graph what its answers are worth: a temperature, and the output `unfamiliarity`.

Both are fitted to what the graph itself computes for held-out photographs.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnx
import onnxruntime as ort
import torch
from onnx import numpy_helper
from torch import Tensor

from contract.manifest import Manifest
from contract.manifest import Tensor as Declared
from contract.recipe import Recipe
from contract.trust import UNFAMILIARITY, Trust, UnfamiliarResult
from training.data.background import load_background
from training.data.folders import printable
from training.data.images import Split, central
from training.data.measured_on import PLAIN
from training.errors import CheckpointError, DataError
from training.evaluate import BATCH
from training.export.graph import Array, Graph
from training.export.unfamiliarity import (
    POOLS,
    SCORE,
    Features,
    Neighbours,
    add_features,
    add_score,
    add_unfamiliarity,
    extend,
)
from training.model import AlexNet
from training.run.checkpoint import Checkpoint
from training.run.held_out import Measured, load_some_training, record_of
from training.trust.fit import (
    MIN_PHOTOGRAPHS,
    UNKNOWN_ABOVE,
    HeldOut,
    Results,
    compare_unfamiliar,
    fit_and_measure,
    trust_of,
)

MAX_REFERENCES: Final = 2_048
MAX_BACKGROUND: Final = 1_024
NOTES: Final = "trust_notes"
FEATURES: Final = tuple(f"unfamiliarity.{part}" for part in POOLS)
# The logits are divided by the temperature in the last layer's stored values, whichever of these it has.
_LOGIT_FACTORS: Final = ("fc8.weight", "fc8.weight.scale", "fc8.bias", "fc8.bias.scale")


@dataclass(frozen=True)
class TrustOptions:
    """The options of `export` about trust.

    `background` (default: that of the training) and the `unfamiliar` folders hold pictures of none of the
    classes, to compare with and to measure on. Images above `unknown_above` (0 to 1) are unknown.
    """

    background: Path | None = None
    unfamiliar: Sequence[Path] = ()
    unknown_above: float = UNKNOWN_ABOVE


DEFAULTS: Final = TrustOptions()


@dataclass(frozen=True)
class TrustResult:
    """The manifest's section, the measurement behind it, and notes about what could not be fitted.

    `unfamiliar` has the unfamiliarity (M,) of the pictures of each folder that was measured.
    """

    trust: Trust | None = None
    results: Results | None = None
    unfamiliar: Mapping[str, Array] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    @property
    def temperature(self) -> float:
        """The temperature by which the graph's logits are divided."""
        return 1.0 if self.trust is None else self.trust.temperature

    @property
    def record(self) -> dict[str, Any]:
        """The entry of `manifest.training`."""
        return {NOTES: list(self.notes)} if self.notes else {}

    @property
    def outputs(self) -> tuple[Declared, ...]:
        """The outputs that the graph has got."""
        if self.trust is None or self.trust.familiarity is None:
            return ()
        meaning = "share of held-out photographs that are more familiar, 0 to 1"
        return (Declared(UNFAMILIARITY, "float32", (None,), meaning),)


def add_trust(
    graph: onnx.ModelProto, state: Checkpoint, data: Path, measured: Measured, options: TrustOptions
) -> TrustResult:
    """Fit and measure trust on held-out photographs, and change the graph of `state` accordingly.

    `data` has the training photographs. Raises DataError and CheckpointError.
    """
    held_out, recipe = measured.split, state.recipe
    if measured.kind not in PLAIN:
        return TrustResult(notes=(f"no trust is fitted to {measured.kind}",))
    if len(held_out) < MIN_PHOTOGRAPHS:
        note = f"no trust is fitted to {len(held_out)} held-out photographs; {MIN_PHOTOGRAPHS} are needed"
        return TrustResult(notes=(note,))
    counts, notes = _add_score(graph, state, data, options)
    outputs = ("probabilities", SCORE) if counts[0] else ("probabilities",)
    photographs = held_out_of(run_split(graph, held_out, recipe, outputs), held_out)
    if not np.isfinite(photographs.logits).all():
        raise CheckpointError("the network's outputs are NaN: it diverged; take an earlier checkpoint")
    method, fitted, results = fit_and_measure(photographs)
    scale_logits(graph, 1 / fitted.temperature)
    unfamiliar: dict[str, Array] = {}
    compared: list[UnfamiliarResult] = []
    if fitted.knots is not None:
        part = Graph("fp32")
        add_unfamiliarity(part, fitted.knots)
        extend(graph, part, {UNFAMILIARITY: ["N"]})
        unfamiliar, compared = _compare(graph, options.unfamiliar, recipe, results, options.unknown_above)
    trust = trust_of(len(held_out), method, fitted, results, *counts, options.unknown_above, compared)
    return TrustResult(trust, results, unfamiliar, notes)


def measure_again(
    graph: onnx.ModelProto, manifest: Manifest, held_out: Split, unfamiliar: Sequence[Path]
) -> Trust:
    """Fit and measure again what the file of `manifest` records, with the same photographs."""
    trust, recipe = manifest.trust, manifest.recipe
    assert trust is not None
    recorded, counts, unknown_above = trust.familiarity, (0, 0), UNKNOWN_ABOVE
    outputs: tuple[str, ...] = ("probabilities",)
    if recorded is not None:
        outputs = ("probabilities", SCORE)
        counts, unknown_above = (recorded.references, recorded.background), recorded.unknown_above
    photographs = held_out_of(run_split(graph, held_out, recipe, outputs), held_out, trust.temperature)
    method, fitted, results = fit_and_measure(photographs)
    compared = [] if recorded is None else _compare(graph, unfamiliar, recipe, results, unknown_above)[1]
    return trust_of(len(held_out), method, fitted, results, *counts, unknown_above, compared)


def _compare(
    graph: onnx.ModelProto, folders: Sequence[Path], recipe: Recipe, results: Results, unknown_above: float
) -> tuple[dict[str, Array], list[UnfamiliarResult]]:
    """Measure folders of unfamiliar pictures -> their unfamiliarity by name, and the comparisons."""
    assert results.unfamiliarity is not None
    values, compared = dict[str, Array](), list[UnfamiliarResult]()
    for folder in folders:
        split, name = load_background(folder, recipe, "unfamiliar"), printable(folder.resolve().name)
        found = run_split(graph, split, recipe, ("probabilities", UNFAMILIARITY))
        values[name] = found[UNFAMILIARITY]
        compared.append(
            compare_unfamiliar(
                name, found["probabilities"], values[name], results.unfamiliarity, unknown_above
            )
        )
    return values, compared


def _add_score(
    graph: onnx.ModelProto, state: Checkpoint, data: Path, options: TrustOptions
) -> tuple[tuple[int, int], tuple[str, ...]]:
    """Add features and score, if the training photographs are in `data`.

    -> how many references and background pictures the graph has, and notes.
    """
    if not len(state.trained_on):
        return (0, 0), ("no unfamiliarity: the run does not record its training photographs",)
    try:
        references = load_some_training(data, record_of(state), MAX_REFERENCES)
    except DataError:  # no paths in the notes, because the manifest has them
        return (0, 0), ("no unfamiliarity: the training photographs are not in the folder of --data",)
    background, notes = references[:0], tuple[str, ...]()
    folder = options.background or (Path(state.background) if state.background else None)
    if folder is not None and not folder.is_dir() and options.background is None:
        notes = ("without the background pictures of the training, which are gone",)
    elif folder is not None:
        split = load_background(folder, state.recipe, "background", count=MAX_BACKGROUND)
        background = split.squares(torch.arange(len(split)))
    part = Graph("fp32")
    add_features(part, _channels(graph))
    extend(graph, part, {})
    vectors = [_features(graph, squares, state.recipe) for squares in (references, background)]
    part = Graph("fp32")
    add_score(part, Neighbours(*vectors))
    extend(graph, part, {})
    return (len(references), len(background)), notes


def held_out_of(outputs: Mapping[str, Array], split: Split, temperature: float = 1.0) -> HeldOut:
    """Recover logits, up to a constant for each photograph, from probabilities at `temperature`."""
    probabilities = outputs["probabilities"].astype(np.float64)
    logits = temperature * np.log(np.maximum(probabilities, np.finfo(np.float32).tiny))
    scores = outputs[SCORE][:, 0].astype(np.float64) if SCORE in outputs else None
    return HeldOut(logits, split.labels.numpy(), split.digests.numpy(), scores)


def scale_logits(graph: onnx.ModelProto, factor: float) -> None:
    """Multiply the logits by `factor`, in the stored weights of the last layer."""
    for tensor in graph.graph.initializer:
        if tensor.name in _LOGIT_FACTORS:
            values = numpy_helper.to_array(tensor)
            tensor.CopyFrom(numpy_helper.from_array((values * factor).astype(values.dtype), tensor.name))


def divide_logits(model: AlexNet, temperature: float) -> None:
    """Divide the logits of the network in torch, as `scale_logits` does with the graph."""
    with torch.no_grad():
        for parameter in model.fc8.parameters():
            parameter.div_(temperature)


def run_split(
    graph: onnx.ModelProto, split: Split, recipe: Recipe, outputs: Sequence[str]
) -> dict[str, Array]:
    """Run the central crops of `split` with ONNX Runtime -> by name, outputs or inner values (N, ...)."""
    return _run(graph, (central(squares, recipe) for squares in split.batches(BATCH)), outputs)


def _features(graph: onnx.ModelProto, squares: Tensor, recipe: Recipe) -> Features:
    """Compute the features of pictures (N, resize, resize, 3) -> by part, (N, C)."""
    if not len(squares):
        return {part: np.empty((0, _channels(graph)), np.float32) for part in POOLS}
    batches = (central(part, recipe) for part in torch.split(squares, BATCH))
    return dict(zip(POOLS, _run(graph, batches, FEATURES).values(), strict=True))


def _run(graph: onnx.ModelProto, batches: Iterable[Tensor], outputs: Sequence[str]) -> dict[str, Array]:
    model = onnx.ModelProto()
    model.CopyFrom(graph)
    declared = {output.name for output in model.graph.output}
    model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in outputs if name not in declared)
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    rows = [session.run(list(outputs), {"images": batch.numpy()}) for batch in batches]
    return {name: np.concatenate([row[place] for row in rows]) for place, name in enumerate(outputs)}


def _channels(graph: onnx.ModelProto) -> int:
    (conv5,) = (output for output in graph.graph.output if output.name == "conv5")
    return int(conv5.type.tensor_type.shape.dim[1].dim_value)
