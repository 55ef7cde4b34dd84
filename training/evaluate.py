"""Measure top-1 and top-5 accuracy, cross-entropy and confusions, on one crop or ten."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import isfinite
from typing import Final

import torch
from torch import Tensor

from contract.preprocess import ten_crops
from contract.recipe import Recipe
from training.data.images import Split, central
from training.errors import CheckpointError
from training.model import AlexNet

BATCH: Final = 50  # images classified at a time
MIN_PROBABILITY: Final = torch.finfo(
    torch.float32
).tiny  # smaller probabilities are denormal or 0 in float32

Classify = Callable[[Tensor], Tensor]  # (N, H, W, 3) uint8 crops -> probabilities (N, classes)


@dataclass(frozen=True)
class Evaluation:
    """The counts of a measurement.

    `hits1` and `hits5` count the images whose class came first, or among the first five.
    `confusion[i, j]` counts the images of class i that were classified as j. `cross_entropy` is the sum
    over the images of -ln(probability of the true class), in nats, each at most 87; NaN if one of them is.
    """

    images: int
    crops: int
    hits1: int
    hits5: int
    cross_entropy: float
    confusion: Tensor

    @property
    def top1(self) -> float:
        """The share of images whose class came first."""
        return self.hits1 / self.images

    @property
    def top5(self) -> float:
        """The share of images whose class was among the first five."""
        return self.hits5 / self.images

    @property
    def loss(self) -> float:
        """The mean cross-entropy; equal probabilities give ln(classes)."""
        return self.cross_entropy / self.images


def evaluate(classify: Classify, split: Split, recipe: Recipe, crops: int = 1) -> Evaluation:
    """Measure `classify` on `split`, with the mean of each image's 1 or 10 crops (section 4.1).

    Raises CheckpointError if probabilities are NaN, which would all count as the first class.
    """
    result = score(probabilities_of(classify, split, recipe, crops), split.labels, crops)
    if not isfinite(result.loss):
        raise CheckpointError("the network's outputs are NaN: it diverged; take an earlier checkpoint")
    return result


def probabilities_of(classify: Classify, split: Split, recipe: Recipe, crops: int = 1) -> Tensor:
    """Classify every image of `split`, averaging over its crops -> (N, classes)."""
    return torch.cat([_probabilities(classify, squares, crops, recipe) for squares in split.batches(BATCH)])


def score(probabilities: Tensor, labels: Tensor, crops: int = 1) -> Evaluation:
    """Count hits and confusions of probabilities (N, classes) against labels (N,)."""
    classes = probabilities.shape[1]
    ranked = probabilities.topk(min(5, classes), dim=1).indices
    hits = ranked == labels[:, None]
    of_label = probabilities[torch.arange(len(labels)), labels]
    confusion = torch.zeros(classes, classes, dtype=torch.int64)
    confusion.index_put_((labels, ranked[:, 0]), torch.ones_like(labels), accumulate=True)
    return Evaluation(
        images=len(labels),
        crops=crops,
        hits1=int(hits[:, 0].sum()),
        hits5=int(hits.any(1).sum()),
        cross_entropy=-float(of_label.double().clamp_min(MIN_PROBABILITY).log().sum()),
        confusion=confusion,
    )


def _probabilities(classify: Classify, squares: Tensor, crops: int, recipe: Recipe) -> Tensor:
    if crops == 1:
        return classify(central(squares, recipe))
    assert crops == 10
    views = torch.cat([torch.from_numpy(ten_crops(s.numpy(), recipe)) for s in squares])
    return classify(views).view(len(squares), 10, -1).mean(1)


def worst_confusions(confusion: Tensor, classes: tuple[str, ...], count: int = 5) -> list[str]:
    """Describe the `count` largest off-diagonal entries: "a taken for b: 4 of 10"."""
    wrong = confusion.clone().fill_diagonal_(0)
    order = wrong.flatten().argsort(descending=True, stable=True)[:count].tolist()
    pairs = [(i // len(classes), i % len(classes)) for i in order]
    return [
        f"{classes[i]} taken for {classes[j]}: {wrong[i, j]} of {confusion[i].sum()}"
        for i, j in pairs
        if wrong[i, j]
    ]


def normalise(pixels: Tensor, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """Subtract each channel's mean and divide by its std -> the network's input, in channels_last order.

    `pixels` (N, 3, H, W) float, 0 to 255.
    """
    centre, scale = (
        torch.tensor(values, dtype=pixels.dtype).to(pixels.device, non_blocking=True)[:, None, None]
        for values in (mean, std)
    )
    pixels = (pixels - centre) / scale
    return pixels.contiguous(memory_format=torch.channels_last)


def torch_classifier(model: AlexNet, mean: Sequence[float], std: Sequence[float]) -> Classify:
    """Return a function that runs `model` in eval mode on its device -> probabilities on the CPU."""

    @torch.no_grad()
    def classify(crops: Tensor) -> Tensor:
        training = model.training
        model.eval()
        weight = model.conv1.weight
        pixels = crops.to(weight.device).permute(0, 3, 1, 2).to(weight.dtype)
        probabilities: Tensor = model(normalise(pixels, mean, std)).softmax(1).cpu()
        model.train(training)
        return probabilities

    return classify
