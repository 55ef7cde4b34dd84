"""The base network: the file that is shipped, and the program that makes such a file."""

import re
from pathlib import Path

import pytest
import torch

from tests.training.runs import same, train
from training import base, checkpoint
from training.weights import Start, read_start


@pytest.mark.slow  # 15 s: a network of full width
def test_shipped_base_gives_a_run_its_convolutions(
    photographs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--width", "1", "--weight-init", "kaiming", "--lr", "1e-9", "--from", "base"]
    assert train(photographs, tmp_path / "run", *options) == 0
    assert "starts from the base network of width 1.0; afresh: fc6, fc7, fc8" in capsys.readouterr().out
    state, shipped = checkpoint.load(tmp_path / "run" / "last.pt"), read_start("base", 1.0)
    assert {name.split(".")[0] for name in shipped.weights} == {f"conv{n}" for n in range(1, 6)}
    for name, weights in shipped.weights.items():
        torch.testing.assert_close(state.model[name], weights, atol=1e-6, rtol=0)
    assert (state.mean, state.std) == (shipped.mean, shipped.std)
    assert state.provenance["started_from"]["data"] == "tiny-imagenet+cifar10"


def test_a_width_without_a_base_names_those_that_there_are(
    photographs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train(photographs, tmp_path / "run", "--from", "base", "--width", "0.3") == 1
    assert re.search(r"no base network of width 0.3; --width .*1\.0 has one", capsys.readouterr().err)


def made(photographs: Path, out: Path, *options: str) -> Start:
    sets = ["--data", str(photographs), "--data", str(photographs), "--batches", "4", "2"]
    base.main([*sets, "--out", str(out), "--width", "0.05", "--sizes", "0.5:64,1:96", *options])
    return read_start(str(out), 0.05)


def test_base_of_two_sets_starts_a_run(photographs: Path, tmp_path: Path) -> None:
    start = made(photographs, tmp_path / "base.safetensors", "--epochs", "4")
    assert start.provenance["steps"] == 12  # 4 epochs of 12 pictures, 4 of them a step
    assert start.provenance["config"]["epochs"] == 4
    assert train(photographs, tmp_path / "run", "--from", str(tmp_path / "base.safetensors")) == 0


def test_equal_seeds_make_equal_bases(photographs: Path, tmp_path: Path) -> None:
    runs = [
        made(photographs, tmp_path / f"{n}.safetensors", "--epochs", "1", "--seed", seed).weights
        for n, seed in enumerate("112")
    ]
    assert same(dict(runs[0]), dict(runs[1]))
    assert not same(dict(runs[0]), dict(runs[2]))


@pytest.mark.slow
def test_a_base_learns_to_tell_its_classes_apart(photographs: Path, tmp_path: Path) -> None:
    start = made(photographs, tmp_path / "base.safetensors", "--epochs", "100")
    assert min(start.provenance["top1"].values()) >= 0.8  # of three colours; chance is 0.33
