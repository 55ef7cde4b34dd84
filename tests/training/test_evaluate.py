"""Evaluation: each image counts once, ten crops are averaged, and confusions add up."""

import pytest
import torch
from torch import Tensor

from contract.recipe import DEFAULT_RECIPE
from training.data.images import Split
from training.evaluate import Classify, evaluate, torch_classifier, worst_confusions
from training.model import AlexNet


def marked(answers: list[int], labels: list[int]) -> Split:
    """Make images whose pixels all have one level, the class that `reader` answers."""
    squares = torch.tensor(answers, dtype=torch.uint8)[:, None, None, None].expand(-1, 256, 256, 3)
    return whole(squares, torch.tensor(labels))


def whole(squares: Tensor, labels: Tensor) -> Split:
    """Make a split of all pictures of `squares`, in order."""
    rows = torch.arange(len(squares))
    return Split(squares, rows, labels, rows, tuple(map(str, rows.tolist())))


def reader(classes: int) -> Classify:
    def classify(crops: Tensor) -> Tensor:
        """Rank the classes by their distance from the pixel's level."""
        level = crops[:, 0, 0, 0].float()
        return (-(torch.arange(classes) - level[:, None]).abs()).softmax(1)

    return classify


@pytest.mark.parametrize("count", [1, 49, 50, 51, 100, 117])
def test_each_image_is_counted_once_for_any_number_of_images(count: int) -> None:
    labels = [i % 7 for i in range(count)]
    answers = [label if i % 3 else 6 - label for i, label in enumerate(labels)]
    result = evaluate(reader(7), marked(answers, labels), DEFAULT_RECIPE)
    right = sum(a == b for a, b in zip(answers, labels, strict=True))
    assert result.images == count
    assert result.crops == 1
    assert result.top1 == pytest.approx(right / count, abs=1e-12)
    assert int(result.confusion.sum()) == count
    for i in range(7):
        for j in range(7):
            assert result.confusion[i, j] == sum(
                (y, a) == (i, j) for y, a in zip(labels, answers, strict=True)
            )


def test_top_5_counts_the_five_most_probable() -> None:
    # Level 0 ranks the classes 0, 1, 2, ...: labels 0 to 4 are within five, 5 and 6 are not.
    result = evaluate(reader(7), marked([0] * 7, list(range(7))), DEFAULT_RECIPE)
    assert result.top1 == pytest.approx(1 / 7)
    assert result.top5 == pytest.approx(5 / 7)


@pytest.mark.parametrize("classes", [2, 3, 5])
def test_top_5_of_five_classes_or_fewer_is_always_right(classes: int) -> None:
    answers = [0] * classes
    result = evaluate(reader(classes), marked(answers, list(range(classes))), DEFAULT_RECIPE)
    assert result.top1 == pytest.approx(1 / classes)
    assert result.top5 == 1


@pytest.fixture(scope="module")
def network() -> AlexNet:
    torch.manual_seed(3)
    model = AlexNet(4, 0.05, "kaiming")
    torch.nn.init.normal_(model.fc8.weight, std=0.5)
    return model


def noise(count: int) -> Split:
    draw = torch.Generator().manual_seed(0)
    squares = torch.randint(0, 256, (count, 256, 256, 3), dtype=torch.uint8, generator=draw)
    return whole(squares, torch.randint(0, 4, (count,), generator=draw))


def test_one_crop_is_the_centre(network: AlexNet) -> None:
    split, mean = noise(5), torch.tensor([120.0, 110.0, 100.0])
    classify = torch_classifier(network, mean.tolist(), [58] * 3)
    network.eval()
    with torch.no_grad():
        pixels = (split.pixels[:, 16:240, 16:240].permute(0, 3, 1, 2).float() - mean[:, None, None]) / 58
        answers = network(pixels).argmax(1)
    result = evaluate(classify, split, DEFAULT_RECIPE)
    for label, answer in zip(split.labels, answers, strict=True):
        assert result.confusion[label, answer] > 0
    assert result.top1 == pytest.approx((answers == split.labels).double().mean().item())


def test_ten_crops_average_the_probabilities_of_ten_crops(network: AlexNet) -> None:
    split = noise(3)
    classify = torch_classifier(network, [0] * 3, [58] * 3)
    by_hand = []
    for image in split.pixels:
        total = torch.zeros(4)
        for y, x in [(0, 0), (0, 32), (32, 0), (32, 32), (16, 16)]:
            crop = image[y : y + 224, x : x + 224]
            total += classify(crop[None])[0] + classify(crop.flip(1)[None])[0]
        by_hand.append(total / 10)
    seen: list[Tensor] = []

    def watched(crops: Tensor) -> Tensor:
        seen.append(classify(crops))
        return seen[-1]

    result = evaluate(watched, split, DEFAULT_RECIPE, crops=10)
    assert result.crops == 10
    assert result.images == 3
    torch.testing.assert_close(
        torch.cat(seen).view(3, 10, 4).mean(1), torch.stack(by_hand), rtol=1e-4, atol=1e-6
    )
    answers = torch.stack(by_hand).argmax(1)
    assert result.top1 == pytest.approx((answers == split.labels).double().mean().item())


def test_a_classifier_uses_no_dropout_and_restores_the_training_mode(network: AlexNet) -> None:
    classify = torch_classifier(network, [0] * 3, [58] * 3)
    crops = noise(2).pixels[:, :224, :224]
    for mode in (True, False):
        network.train(mode)
        assert torch.equal(classify(crops), classify(crops))
        assert network.training == mode
    torch.testing.assert_close(classify(crops).sum(1), torch.ones(2))


def test_the_worst_confusions_come_first_and_name_both_classes() -> None:
    confusion = torch.tensor([[5, 1, 0], [4, 6, 0], [0, 2, 8]])
    assert worst_confusions(confusion, ("a", "b", "c")) == [
        "b taken for a: 4 of 10",
        "c taken for b: 2 of 10",
        "a taken for b: 1 of 6",
    ]
    assert worst_confusions(confusion, ("a", "b", "c"), count=1) == ["b taken for a: 4 of 10"]
    assert worst_confusions(torch.eye(3, dtype=torch.int64), ("a", "b", "c")) == []


def test_ten_crops_are_averaged_not_voted() -> None:
    views = torch.tensor([[0.4, 0.35, 0.25]] * 6 + [[0.0, 0.9, 0.1]] * 4)

    def classify(crops: Tensor) -> Tensor:
        return views.repeat(len(crops) // 10, 1)

    result = evaluate(classify, marked([0, 0], [1, 1]), DEFAULT_RECIPE, crops=10)
    assert result.top1 == 1
    assert result.confusion[1, 1] == 2
