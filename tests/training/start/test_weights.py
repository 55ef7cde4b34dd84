"""Runs started from any file compute the same as the file, and keep the rows of its classes."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from tests.support.drawing.pictures import draw_classes
from tests.support.runs import CLASSES, COLOURS, MEAN, images, train, trained
from training.__main__ import main
from training.config import Config
from training.data.prepared import load_dataset
from training.errors import CheckpointError
from training.evaluate import torch_classifier
from training.model import AlexNet
from training.run import checkpoint
from training.start.init_run import init_run
from training.start.published import to_alexnet
from training.start.tensorfile import plain
from training.start.weights import Start, read_start, write_safetensors


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Draw one training and one validation picture per class; "amber" is new, and the first."""
    root = tmp_path_factory.mktemp("data")
    colours = dict.fromkeys((*CLASSES, "amber"), (90, 90, 90))
    draw_classes(root / "train", colours, 1, size=16)
    draw_classes(root / "val", colours, 1, first=1, size=16)
    return root


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make a run folder with one checkpoint, and half.safetensors; test_verify has model files."""
    folder = tmp_path_factory.mktemp("source")
    trained(folder / "last.pt")
    start = read_start(str(folder), 1.0)
    halves = {name: values.half() for name, values in start.weights.items()}
    write_safetensors(folder / "half.safetensors", replace(start, weights=halves))
    return folder


def initialised(data: Path, source: Path, **settings: Any) -> tuple[checkpoint.Checkpoint, str]:
    """Make the state before the first step of a run from `source`."""
    start = read_start(str(source), 1.0)
    config = Config(**{**start.shape, "weight_init": "kaiming", **settings})
    return init_run(config, load_dataset(data, config), data / "none", resumed=None, start=start)


@pytest.mark.parametrize(("name", "tolerance"), [("", 1e-6), ("half.safetensors", 2e-3)])
def test_a_run_starts_with_the_outputs_of_its_source(
    name: str, tolerance: float, source: Path, data: Path
) -> None:
    state, words = initialised(data, source / name)
    assert words.endswith("afresh: fc8 of amber; fc8 keeps blue, green, orange, white")
    assert (state.mean, state.std) == (MEAN, [58.0] * 3)
    old = checkpoint.load(source / "last.pt")
    expected = torch_classifier(checkpoint.restore_model(old), old.mean, old.std)(images(8))
    network = checkpoint.restore_model(state)
    rows = [state.classes.index(name) for name in CLASSES]
    network.fc8.weight.data, network.fc8.bias.data = network.fc8.weight[rows], network.fc8.bias[rows]
    probabilities = torch_classifier(network, state.mean, state.std)(images(8))
    assert (probabilities - expected).abs().max() <= tolerance
    assert (probabilities.amax(0) - probabilities.amin(0)).max() > 0.01, (
        "the answers differ enough for the comparison to mean something"
    )


def test_the_network_settings_are_those_of_the_source_unless_given(
    source: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = [
        "train",
        "--data",
        str(data),
        "--out",
        str(tmp_path / "run"),
        "--from",
        str(source / "half.safetensors"),
    ]
    assert main([*command, "--epochs", "1", "--lr", "1e-12", "--batch-size", "5", "--device", "cpu"]) == 0
    state = checkpoint.load(tmp_path / "run" / "last.pt")
    assert state.config.width == 0.08
    assert state.provenance["started_from"]["config"]["epochs"] == 4
    capsys.readouterr()
    option = ["--width", "0.1", "--pooling", "plain"]
    assert main([*command[:3], *["--out", str(tmp_path / "other")], *command[5:], *option]) == 1
    out, err = capsys.readouterr()
    assert not out, "before any photograph is read"
    for difference in ("width 0.08, this run 0.1", "pooling overlapping, this run plain"):
        assert f"--from has {difference}; use the same value, or --from scratch" in err


def test_rows_of_removed_classes_are_not_copied(source: Path, tmp_path: Path) -> None:
    state, words = initialised(draw_classes(tmp_path, COLOURS, 2, size=16), source)
    assert words.endswith("afresh: nothing")
    old = checkpoint.load(source / "last.pt").model
    rows = [CLASSES.index(name) for name in state.classes]
    assert torch.equal(state.model["fc8.weight"], old["fc8.weight"][rows])
    assert torch.equal(state.model["fc8.bias"], old["fc8.bias"][rows])


def test_rows_of_other_classes_start_afresh(source: Path, tmp_path: Path) -> None:
    """Rows of fc8 with fitting shapes belong to other classes."""
    others = dict.fromkeys(("ant", "bee", "cat", "dog"), (90, 90, 90))
    state, words = initialised(draw_classes(tmp_path, others, 2, size=16), source)
    assert words.endswith("afresh: fc8")
    assert not torch.equal(
        state.model["fc8.weight"], checkpoint.load(source / "last.pt").model["fc8.weight"]
    )


THEIRS = {f"features.{n}.weight": torch.zeros(1) for n in (0, 3, 6, 8, 10)} | {
    f"classifier.{n}.weight": torch.zeros(1) for n in (1, 4, 6)
}
THEIRS |= {name.replace("weight", "bias"): torch.zeros(1) for name in THEIRS}


@pytest.mark.parametrize("prefix", ["", "module.", "model.", "_orig_mod.", "module._orig_mod.net."])
@pytest.mark.parametrize(
    "nested",
    [
        lambda state: state,
        lambda state: {"state_dict": state, "optimizer": {}, "epoch": 3},
        lambda state: {"config": {"lr": 1}, "model": {"state_dict": state}},
    ],
)
def test_nested_and_prefixed_state_dicts_are_read(prefix: str, nested: Any) -> None:
    state = {prefix + name: values for name, values in THEIRS.items()}
    assert len(to_alexnet(plain(nested(state), Path("theirs.pth")))) == 16


def test_torchvision_s_weights_start_their_own_variant(tmp_path: Path) -> None:
    torch.save({"state_dict": {f"module.{k}": v for k, v in THEIRS.items()}}, tmp_path / "a.pth")
    save_file(THEIRS, tmp_path / "a.safetensors")
    for name in ("a.pth", "a.safetensors"):
        start = read_start(str(tmp_path / name), 1.0)
        assert start.shape["arch"] == "torchvision"
        assert start.std == pytest.approx([58.395, 57.12, 57.375])
        assert start.weights["fc8.bias"].shape == (1,)
    torch.save(AlexNet(2, 0.02).state_dict(), tmp_path / "ours.pt")
    with pytest.raises(CheckpointError, match="without the mean and std of their pixels"):
        read_start(str(tmp_path / "ours.pt"), 1.0)


def test_weights_is_an_alias_of_from_and_scratch_takes_none(
    source: Path, photographs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train(photographs, tmp_path / "a", "--width", "0.08", "--weights", str(source)) == 0
    assert f"starts from {source} (the last, epoch 3 of 4; its schedule" in capsys.readouterr().out
    assert train(photographs, tmp_path / "b", "--from", "scratch") == 0
    assert "starts afresh" in capsys.readouterr().out


def test_weights_with_nan_cannot_start_a_run(source: Path, tmp_path: Path) -> None:
    start = read_start(str(source), 1.0)
    weights = {**start.weights, "conv2.bias": start.weights["conv2.bias"] * torch.nan}
    write_safetensors(tmp_path / "nan.safetensors", Start(**{**vars(start), "weights": weights}))
    with pytest.raises(CheckpointError, match=r"nan\.safetensors holds NaN or infinity: it diverged"):
        read_start(str(tmp_path / "nan.safetensors"), 1.0)
