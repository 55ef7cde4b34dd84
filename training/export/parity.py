"""Compare the probabilities of two versions of a network, such as PyTorch and ONNX."""

from copy import deepcopy
from dataclasses import asdict, dataclass
from math import floor, sqrt
from typing import Any, Final

import numpy as np
import onnx
import onnxruntime as ort
import torch
from torch import Tensor

from contract.recipe import DEFAULT_RECIPE
from training.data.images import Split, central
from training.evaluate import Classify, torch_classifier
from training.model import AlexNet

TOLERANCE: Final = 1e-5  # of a probability, between float32 in torch and in ONNX Runtime
BATCHES: Final = (1, 2, 3, 32, 257)
MAX_CHANGED: Final = 0.01  # share of top-1 answers that rounding to fp16 or int8 may change


@dataclass(frozen=True)
class Difference:
    """The difference of two tables of probabilities (N, classes).

    `largest` and `mean` are of the absolute differences; `agreement` is the share of images with the same
    top-1 class.
    """

    largest: float
    mean: float
    agreement: float


@dataclass(frozen=True)
class Parity:
    """The differences of a model file from its network in torch, on `images` crops.

    `on` is "photographs" or "noise".
    """

    on: str
    images: int
    file_torch64: Difference
    file_torch32: Difference
    torch32_torch64: Difference

    def record(self) -> dict[str, Any]:
        """Return the entry of the manifest."""
        return {**asdict(self), "batches": list(BATCHES)}


def classifier_of(graph: onnx.ModelProto) -> Classify:
    """Return a function that runs `graph` with ONNX Runtime on the CPU."""
    session = ort.InferenceSession(graph.SerializeToString(), providers=["CPUExecutionProvider"])

    def classify(crops: Tensor) -> Tensor:
        (probabilities,) = session.run(["probabilities"], {"images": crops.numpy()})
        return torch.from_numpy(np.asarray(probabilities))

    return classify


def difference(a: Tensor, b: Tensor) -> Difference:
    """Compare two tables of probabilities; NaN counts as an infinite difference."""
    gap = (a.double() - b.double()).abs().nan_to_num(torch.inf)
    same = a.argmax(1) == b.argmax(1)
    return Difference(gap.max().item(), gap.mean().item(), same.double().mean().item())


def max_changed(images: int) -> int:
    """Return how many of `images` answers rounding may change: 5 of 255, 116 of 10,000.

    If rounding changed a share of MAX_CHANGED, more would occur in only 5 % of all cases (normal
    approximation).
    """
    expected = images * MAX_CHANGED
    return floor(expected + 1.645 * sqrt(expected * (1 - MAX_CHANGED)))


def measure_parity(
    model: AlexNet, mean: list[float], std: list[float], exported: Classify, split: Split | None
) -> Parity:
    """Compare `exported` with `model` in float32 and float64, at every batch size in BATCHES.

    `largest` is over all batch sizes; `mean` and `agreement` are of the largest batch.
    """
    crops = _crops(split, max(BATCHES))
    single, double = (
        torch.cat([torch_classifier(network, mean, std)(part) for part in torch.split(crops, 32)])
        for network in (model, deepcopy(model).double())
    )
    outputs = [exported(crops[:count]) for count in BATCHES]
    return Parity(
        on="noise" if split is None else "photographs",
        images=len(crops),
        file_torch64=_over_batches(outputs, double),
        file_torch32=_over_batches(outputs, single),
        torch32_torch64=difference(single, double),
    )


def _over_batches(outputs: list[Tensor], reference: Tensor) -> Difference:
    differences = [difference(output, reference[: len(output)]) for output in outputs]
    return Difference(max(d.largest for d in differences), differences[-1].mean, differences[-1].agreement)


def _crops(split: Split | None, count: int) -> Tensor:
    """Return `count` crops (count, 224, 224, 3) uint8: of `split`, repeated if it has fewer, or noise."""
    if split is not None:
        return central(split.squares(torch.arange(count) % len(split)), DEFAULT_RECIPE)
    size = DEFAULT_RECIPE.crop
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (count, size, size, 3), dtype=torch.uint8, generator=generator)
