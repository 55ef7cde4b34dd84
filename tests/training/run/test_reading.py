"""Losses that are read once in several steps, as on GPUs, give the same run as losses read every step."""

import re
from pathlib import Path

import pytest

from tests.support.runs import PAPER, ctrl_c_at, same, train_as
from training import train
from training.__main__ import main
from training.run import checkpoint, progress
from training.run.log import read_log

PARTS = ("model", "optimizer", "schedule", "metrics", "best", "epoch_loss", "step", "epoch")


def read_every(steps: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(train.STEPS_PER_READING, "cpu", steps)


def require_same(ours: Path, theirs: Path) -> None:
    states = [checkpoint.load(run / "last.pt") for run in (ours, theirs)]
    for part in PARTS:
        assert same(*(getattr(state, part) for state in states)), part
    losses = [[(row.loss, row.top1, row.val_loss) for row in read_log(run)] for run in (ours, theirs)]
    assert losses[0] == losses[1]


@pytest.mark.slow
@pytest.mark.parametrize("options", [[], ["--accumulate", "2"]], ids=["whole", "in-pieces"])
def test_the_run_is_the_same(
    photographs: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    options: list[str],
) -> None:
    monkeypatch.setattr(progress, "EVERY", 0.0)  # seconds between two lines
    assert train_as(photographs, tmp_path / "every", *PAPER, *options) == 0
    assert "epoch 1/3  step 1/3  loss" in capsys.readouterr().out
    read_every(2, monkeypatch)
    assert train_as(photographs, tmp_path / "second", *PAPER, *options) == 0
    lines = re.findall(r"^epoch \d/3  step \d/3", capsys.readouterr().out, re.MULTILINE)
    # Steps 2, 4, 6 and 8 of the run, and the last of each epoch, which the line of the epoch follows.
    assert lines == ["epoch 1/3  step 2/3", "epoch 2/3  step 1/3", "epoch 3/3  step 2/3"]
    require_same(tmp_path / "second", tmp_path / "every")


def test_a_signal_stops_a_single_process_after_the_current_step(
    photographs: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert train_as(photographs, tmp_path / "whole", *PAPER) == 0
    read_every(100, monkeypatch)
    with ctrl_c_at(5):
        assert train_as(photographs, tmp_path / "broken", *PAPER) == 130
    assert "stopped after step 5, saved" in capsys.readouterr().err
    assert main(["train", "--resume", "--out", str(tmp_path / "broken"), "--device", "cpu"]) == 0
    require_same(tmp_path / "broken", tmp_path / "whole")


def test_a_divergence_names_the_step_that_had_it(
    photographs: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    errors = []
    options = [*PAPER, "--lr", "100000", "--weight-init", "kaiming"]
    for name, steps in (("every", 1), ("rarely", 100)):
        read_every(steps, monkeypatch)
        assert train_as(photographs, tmp_path / name, *options) == 1
        errors.append(capsys.readouterr().err)
        state = checkpoint.load(tmp_path / name / "last.pt")
        assert all(values.isfinite().all() for values in state.model.values())
    assert errors[0] == errors[1]
    assert "the loss is " in errors[0]
