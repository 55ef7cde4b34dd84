"""Variants of the network: their layers, and that their exported files can be rebuilt."""

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from contract.recipe import DEFAULT_RECIPE
from tests.support.runs import MEAN, trained
from training.__main__ import main
from training.config import Config
from training.data.augment import colour_components
from training.errors import ExportError
from training.evaluate import torch_classifier
from training.export.export import export
from training.export.parity import TOLERANCE
from training.export.verify import read_model, restore_network
from training.model import AlexNet, Variant, weighted_layers
from training.run import checkpoint
from training.run.checkpoint import Checkpoint

VARIANTS: list[dict[str, Any]] = [
    {},
    {"lrn": False, "pooling": "plain"},
    {"arch": "torchvision", "activation": "tanh", "pooling": "plain", "dropout": False},
]
# VARIANTS combine all switches; these, four seconds each, are for the slow tests.
MORE_VARIANTS: list[dict[str, Any]] = [
    {"arch": "one-tower"},
    {"arch": "torchvision"},
    {"activation": "tanh"},
]


def name_of(variant: dict[str, Any]) -> str:
    return "-".join(map(str, variant.values())) or "paper"


@pytest.mark.parametrize(
    ("arch", "parameters"),
    [("paper", 60_965_224), ("one-tower", 62_378_344), ("torchvision", 61_100_840)],
)
def test_the_parameters_are_as_many_as_published(arch: str, parameters: int) -> None:
    with torch.device("meta"):
        net = AlexNet(1000, variant=Variant(arch))
    assert sum(p.numel() for p in net.parameters()) == parameters
    names = [*(f"conv{i}" for i in range(1, 6)), "fc6", "fc7", "fc8"]
    assert list(net.state_dict()) == [f"{n}.{kind}" for n in names for kind in ("weight", "bias")]


def test_the_torchvision_variant_equals_torchvision_s_network() -> None:
    """Compare with the layers of torchvision/models/alexnet.py, with the same weights."""
    torch.manual_seed(0)
    net = AlexNet(10, 0.1, "kaiming", variant=Variant("torchvision"))
    c1, c2, c3, c4, c5, f6, f7, f8 = (layer for _name, layer in weighted_layers(net))
    half, pool = nn.Dropout(), nn.MaxPool2d(3, 2)
    features = nn.Sequential(
        *(c1, nn.ReLU(), pool, c2, nn.ReLU(), pool, c3, nn.ReLU(), c4, nn.ReLU(), c5, nn.ReLU(), pool)
    )
    classifier = nn.Sequential(nn.Flatten(), half, f6, nn.ReLU(), half, f7, nn.ReLU(), f8)
    theirs = nn.Sequential(features, classifier)
    images = torch.randn(2, 3, 224, 224)
    for mode in (False, True):
        torch.manual_seed(1)
        expected = theirs.train(mode)(images)
        torch.manual_seed(1)
        torch.testing.assert_close(net.train(mode)(images), expected)


@pytest.mark.parametrize("pooling", ["overlapping", "plain"])
@pytest.mark.parametrize("lrn", [True, False])
@pytest.mark.parametrize("activation", ["relu", "tanh"])
def test_every_switch_changes_its_layer(activation: str, lrn: bool, pooling: str) -> None:
    torch.manual_seed(0)
    net = AlexNet(4, 0.05, "kaiming", variant=Variant("paper", activation, lrn, pooling)).eval()
    act = nn.ReLU() if activation == "relu" else nn.Tanh()
    norm = nn.LocalResponseNorm(5, alpha=5e-4, beta=0.75, k=2) if lrn else nn.Identity()
    pool = nn.MaxPool2d(3, 2) if pooling == "overlapping" else nn.MaxPool2d(2, 2)
    images = torch.randn(2, 3, 224, 224)
    x = pool(norm(act(net.conv2(pool(norm(act(net.conv1(images))))))))
    x = pool(act(net.conv5(act(net.conv4(act(net.conv3(x)))))))
    expected = net.fc8(act(net.fc7(act(net.fc6(x.flatten(1))))))
    torch.testing.assert_close(net(images), expected, rtol=1e-4, atol=1e-5)


def test_without_dropout_training_and_evaluation_are_equal() -> None:
    net, images = AlexNet(4, 0.05, variant=Variant(dropout=False)), torch.randn(2, 3, 224, 224)
    assert torch.equal(net.train()(images), net.eval()(images))
    dropping = AlexNet(4, 0.05)
    assert not torch.equal(dropping.train()(images), dropping.eval()(images))


@pytest.mark.parametrize("size", [64, 112, 150])
@pytest.mark.parametrize("pooling", ["overlapping", "plain"])
def test_smaller_images_fit_either_pooling(pooling: str, size: int) -> None:
    net = AlexNet(3, 0.05, image_size=size, variant=Variant(pooling=pooling))
    assert net(torch.zeros(1, 3, size, size)).shape == (1, 3)


@pytest.mark.parametrize(
    "variant",
    [*VARIANTS, *(pytest.param(more, marks=pytest.mark.slow) for more in MORE_VARIANTS)],
    ids=name_of,
)
def test_an_exported_variant_can_be_rebuilt(variant: dict[str, Any], tmp_path: Path) -> None:
    run = trained(tmp_path / "best.pt", **variant)
    manifest = export(run, tmp_path / "net.onnx")  # refuses what differs from torch
    assert manifest.parity["file_torch64"]["largest"] <= TOLERANCE
    rebuilt = restore_network(*read_model(tmp_path / "net.onnx"))
    state = checkpoint.load(run)
    trained_net = checkpoint.restore_model(state)
    assert replace(rebuilt.variant, dropout=True, lrn=True) == replace(
        trained_net.variant, dropout=True, lrn=True
    )
    crops = torch.randint(0, 256, (2, 224, 224, 3), dtype=torch.uint8)
    expected = torch_classifier(trained_net, MEAN, state.std)(crops)
    probabilities = torch_classifier(rebuilt, MEAN, [1] * 3)(crops)
    torch.testing.assert_close(probabilities, expected, rtol=0, atol=1e-5)
    # The answers differ enough for the comparison to mean something.
    paper = AlexNet(4, 0.08)
    if variant and "arch" not in variant:
        paper.load_state_dict(rebuilt.state_dict())
        other = torch_classifier(paper, MEAN, [1] * 3)(crops)
        assert (other - expected).abs().max() > 1e-4


def test_a_file_of_an_unknown_variant_is_refused(tmp_path: Path) -> None:
    export(trained(tmp_path / "best.pt"), tmp_path / "net.onnx")
    model, manifest = read_model(tmp_path / "net.onnx")
    with pytest.raises(ExportError, match="arch is 'vgg'; use paper or one-tower or torchvision"):
        restore_network(model, replace(manifest, architecture={"variant": "vgg", "width": 0.08}))
    with pytest.raises(ExportError, match="architecture is unknown: 'variant'"):
        restore_network(model, replace(manifest, architecture={}))


def test_a_checkpoint_from_before_the_variants_reads_with_defaults(tmp_path: Path) -> None:
    config = Config(width=0.02, weight_init="kaiming")
    checkpoint.save(Checkpoint(config, ("a", "b"), [1.0, 2.0, 3.0], [1.0] * 3, {}), tmp_path / "last.pt")
    record = torch.load(tmp_path / "last.pt", weights_only=True)
    record["config"]["init"] = record["config"].pop("weight_init")
    for key in ("pca", *asdict(Variant())):
        del record["config"][key]
    del record["std"], record["preprocessing"]
    torch.save(record, tmp_path / "last.pt")
    state = checkpoint.load(tmp_path / "last.pt")
    assert state.config == config
    assert state.std == [58.0, 58.0, 58.0]
    assert state.recipe == DEFAULT_RECIPE


def test_the_command_line_switches_reach_the_run_and_its_file(photographs: Path, tmp_path: Path) -> None:
    run, tiny = tmp_path / "run", ["--recipe", "paper", "--width", "0.02", "--epochs", "1", "--lr", "1e-4"]
    switches = ["--arch", "one-tower", "--activation", "tanh", "--pooling", "plain"]
    switches += ["--no-lrn", "--no-dropout", "--no-pca"]
    assert main(["train", "--data", str(photographs), "--out", str(run), *tiny, *switches]) == 0
    config = checkpoint.load(run / "last.pt").config
    assert config.variant == Variant("one-tower", "tanh", False, "plain", False)
    assert not config.pca
    assert main(["export", str(run), "--out", str(tmp_path / "net.onnx")]) == 0
    _model, manifest = read_model(tmp_path / "net.onnx")
    assert json.loads(manifest.to_json())["architecture"] == {
        "name": "alexnet",
        "variant": "one-tower",
        "width": 0.02,
        "activation": "tanh",
        "lrn": False,
        "pooling": "plain",
    }


def test_no_pca_disables_the_colour_shift(photographs: Path, tmp_path: Path) -> None:
    assert (colour_components(torch.zeros(3, 3)) == 0).all()
    tiny = ["--recipe", "paper", "--width", "0.02", "--epochs", "1", "--batch-size", "4", "--lr", "1e-4"]
    weights = []
    for name, switch in (("with", "--pca"), ("again", "--pca"), ("without", "--no-pca")):
        assert (
            main(["train", "--data", str(photographs), "--out", str(tmp_path / name), *tiny, switch]) == 0
        )
        weights.append(checkpoint.load(tmp_path / name / "last.pt").model["conv1.weight"])
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


def test_weights_of_other_layers_are_refused(
    photographs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = trained(tmp_path / "best.pt")
    options = ["--width", "0.08", "--activation", "tanh", "--weights", str(source)]
    assert main(["train", "--data", str(photographs), "--out", str(tmp_path / "run"), *options]) == 1
    assert "--from has activation relu, this run tanh; use the same value" in capsys.readouterr().err


def test_weights_keep_the_normalisation_of_their_training(photographs: Path, tmp_path: Path) -> None:
    """The run has raw pixels, its source pixels / 58: without that, weights would be 58 times off."""
    source = trained(tmp_path / "best.pt", "kaiming")
    options = ["--recipe", "paper", "--epochs", "1", "--lr", "1e-12", "--weights", str(source)]
    assert main(["train", "--data", str(photographs), "--out", str(tmp_path / "run"), *options]) == 0
    state = checkpoint.load(tmp_path / "run" / "last.pt")
    assert (state.config.weight_init, state.mean, state.std) == ("paper", MEAN, [58.0] * 3)
