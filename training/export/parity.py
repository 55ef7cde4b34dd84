"""How far apart two ways of computing the same probabilities are, as a report for the manifest."""

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
MAX_CHANGED: Final = 0.01  # of first answers, where weights or activations are rounded


@dataclass(frozen=True)
class Difference:
    """Between two tables of probabilities (N, classes): `largest` and `mean` of a probability, and
    `agreement`, the fraction of images with the same first answer.
    """

    largest: float
    mean: float
    agreement: float


@dataclass(frozen=True)
class Parity:
    """Of a model file with its network in torch, over `images` crops `on` photographs or noise."""

    on: str
    images: int
    file_torch64: Difference
    file_torch32: Difference
    torch32_torch64: Difference

    def record(self) -> dict[str, Any]:
        return {**asdict(self), "batches": list(BATCHES)}


def classifier_of(graph: onnx.ModelProto) -> Classify:
    """What ONNX Runtime computes on the CPU."""
    session = ort.InferenceSession(graph.SerializeToString(), providers=["CPUExecutionProvider"])

    def classify(crops: Tensor) -> Tensor:
        (probabilities,) = session.run(["probabilities"], {"images": crops.numpy()})
        return torch.from_numpy(np.asarray(probabilities))

    return classify


def difference(a: Tensor, b: Tensor) -> Difference:
    # NaN compares as false with everything, so it counts as an infinite difference.
    gap = (a.double() - b.double()).abs().nan_to_num(torch.inf)
    same = a.argmax(1) == b.argmax(1)
    return Difference(gap.max().item(), gap.mean().item(), same.double().mean().item())


def most_changed(images: int) -> int:
    """Count the answers that may change among so many: one more would be rare (5 %, by the normal
    distribution) if rounding changed MAX_CHANGED of all. 5 of 255, 116 of 10,000.
    """
    expected = images * MAX_CHANGED
    return floor(expected + 1.645 * sqrt(expected * (1 - MAX_CHANGED)))


def measure_parity(
    model: AlexNet, mean: list[float], std: list[float], exported: Classify, split: Split | None
) -> Parity:
    """`largest` is that of every batch size in BATCHES, `mean` and `agreement` are of the largest batch."""
    crops = _crops(split, max(BATCHES))
    single, double = (
        torch.cat([torch_classifier(network, mean, std)(part) for part in torch.split(crops, 32)])
        for network in (model, deepcopy(model).double())
    )
    found = [exported(crops[:count]) for count in BATCHES]
    return Parity(
        on="noise" if split is None else "photographs",
        images=len(crops),
        file_torch64=_over_batches(found, double),
        file_torch32=_over_batches(found, single),
        torch32_torch64=difference(single, double),
    )


def _over_batches(found: list[Tensor], reference: Tensor) -> Difference:
    each = [difference(answers, reference[: len(answers)]) for answers in found]
    return Difference(max(d.largest for d in each), each[-1].mean, each[-1].agreement)


def _crops(split: Split | None, count: int) -> Tensor:
    """(count, 224, 224, 3) uint8: of the pictures, over and over where there are fewer."""
    if split is not None:
        return central(split.squares(torch.arange(count) % len(split)), DEFAULT_RECIPE)
    size = DEFAULT_RECIPE.crop
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (count, size, size, 3), dtype=torch.uint8, generator=generator)
