"""The base network: the file that is shipped, and the program that makes such a file."""

from pathlib import Path

import pytest
import torch

from tests.training.runs import ROOT, same, train
from training import base, checkpoint

SHIPPED = ROOT / "training" / "base.pt"


def test_shipped_base_gives_a_run_its_convolutions(photographs: Path, tmp_path: Path) -> None:
    options = ["--width", "1", "--weight-init", "kaiming", "--lr", "1e-9", "--weights", str(SHIPPED)]
    assert train(photographs, tmp_path / "run", *options) == 0
    state, shipped = checkpoint.load(tmp_path / "run" / "last.pt"), checkpoint.load(SHIPPED)
    assert {name.split(".")[0] for name in shipped.model} == {f"conv{n}" for n in range(1, 6)}
    for name, weights in shipped.model.items():
        torch.testing.assert_close(state.model[name], weights.float(), atol=1e-6, rtol=0)
    assert (state.mean, state.std) == (shipped.mean, shipped.std)


def made(photographs: Path, out: Path, *options: str) -> checkpoint.Checkpoint:
    sets = ["--data", str(photographs), "--data", str(photographs), "--batches", "4", "2"]
    base.main([*sets, "--out", str(out), "--width", "0.05", "--sizes", "0.5:64,1:96", *options])
    return checkpoint.load(out)


def test_base_of_two_sets_starts_a_run(photographs: Path, tmp_path: Path) -> None:
    state = made(photographs, tmp_path / "base.pt", "--epochs", "4")
    assert state.classes == ("blue", "orange", "white") * 2
    assert state.provenance["steps"] == 12  # 4 epochs of 12 pictures, 4 of them a step
    assert (
        train(
            photographs,
            tmp_path / "run",
            "--weight-init",
            "kaiming",
            "--weights",
            str(tmp_path / "base.pt"),
        )
        == 0
    )


def test_equal_seeds_make_equal_bases(photographs: Path, tmp_path: Path) -> None:
    runs = [
        made(photographs, tmp_path / f"{n}.pt", "--epochs", "1", "--seed", seed).model
        for n, seed in enumerate("112")
    ]
    assert same(dict(runs[0]), dict(runs[1]))
    assert not same(dict(runs[0]), dict(runs[2]))


@pytest.mark.slow
def test_a_base_learns_to_tell_its_classes_apart(photographs: Path, tmp_path: Path) -> None:
    state = made(photographs, tmp_path / "base.pt", "--epochs", "100")
    assert min(state.provenance["top1"].values()) >= 0.8  # of three colours; chance is 0.33
