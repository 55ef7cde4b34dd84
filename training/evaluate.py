"""Top-1 and top-5 accuracy on one crop or ten, for one class as for all."""

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
MIN_PROBABILITY: Final = torch.finfo(torch.float32).tiny  # below it, float32 has no probability to tell

Classify = Callable[[Tensor], Tensor]  # (N, H, W, 3) uint8 crops -> probabilities (N, classes)


@dataclass(frozen=True)
class Evaluation:
    """`hits1` and `hits5` count the images whose class came first, or among the first five;
    `confusion[i, j]` those of class i taken for class j. `cross_entropy` is the sum over the images of
    -ln(probability of its class), in nats, each at most 87; it is NaN if any probability is.
    """

    images: int
    crops: int
    hits1: int
    hits5: int
    cross_entropy: float
    confusion: Tensor

    @property
    def top1(self) -> float:
        return self.hits1 / self.images

    @property
    def top5(self) -> float:
        return self.hits5 / self.images

    @property
    def loss(self) -> float:
        """The mean cross-entropy; that of guessing is ln(classes)."""
        return self.cross_entropy / self.images


def evaluate(classify: Classify, split: Split, recipe: Recipe, crops: int = 1) -> Evaluation:
    """Every image counts once, with the mean of its crops' probabilities (section 4.1).

    Raises CheckpointError where they are no numbers: all would count as answers of the first class.
    """
    result = judge(probabilities_of(classify, split, recipe, crops), split.labels, crops)
    if not isfinite(result.loss):
        raise CheckpointError(
            "the network's answers are no numbers: it diverged; take an earlier checkpoint"
        )
    return result


def probabilities_of(classify: Classify, split: Split, recipe: Recipe, crops: int = 1) -> Tensor:
    """-> (N, classes)."""
    return torch.cat([_probabilities(classify, squares, crops, recipe) for squares in split.batches(BATCH)])


def judge(probabilities: Tensor, labels: Tensor, crops: int = 1) -> Evaluation:
    """Probabilities (N, classes) against the labels (N,)."""
    classes = probabilities.shape[1]
    ranked = probabilities.topk(min(5, classes), dim=1).indices
    hits = ranked == labels[:, None]
    given = probabilities[torch.arange(len(labels)), labels]
    confusion = torch.zeros(classes, classes, dtype=torch.int64)
    confusion.index_put_((labels, ranked[:, 0]), torch.ones_like(labels), accumulate=True)
    return Evaluation(
        images=len(labels),
        crops=crops,
        hits1=int(hits[:, 0].sum()),
        hits5=int(hits.any(1).sum()),
        cross_entropy=-float(given.double().clamp_min(MIN_PROBABILITY).log().sum()),
        confusion=confusion,
    )


def _probabilities(classify: Classify, squares: Tensor, crops: int, recipe: Recipe) -> Tensor:
    if crops == 1:
        return classify(central(squares, recipe))
    assert crops == 10
    views = torch.cat([torch.from_numpy(ten_crops(s.numpy(), recipe)) for s in squares])
    return classify(views).view(len(squares), 10, -1).mean(1)


def worst_confusions(confusion: Tensor, classes: tuple[str, ...], count: int = 5) -> list[str]:
    """The largest counts off the diagonal, in words."""
    wrong = confusion.clone().fill_diagonal_(0)
    order = wrong.flatten().argsort(descending=True, stable=True)[:count].tolist()
    pairs = [(i // len(classes), i % len(classes)) for i in order]
    return [
        f"{classes[i]} taken for {classes[j]}: {wrong[i, j]} of {confusion[i].sum()}"
        for i, j in pairs
        if wrong[i, j]
    ]


def normalise(pixels: Tensor, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """(N, 3, H, W) float, 0 to 255 -> what the network takes: less the mean of each channel, over its
    std, in the order of channels_last.
    """
    pixels = (pixels - pixels.new_tensor(mean)[:, None, None]) / pixels.new_tensor(std)[:, None, None]
    return pixels.contiguous(memory_format=torch.channels_last)


def torch_classifier(model: AlexNet, mean: Sequence[float], std: Sequence[float]) -> Classify:
    """`model` without dropout, on the device where it is; probabilities on the CPU."""

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
