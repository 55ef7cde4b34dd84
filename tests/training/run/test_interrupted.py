"""A run stopped anywhere and resumed ends with the weights of an uninterrupted one, bit for bit."""

import csv
import os
import shutil
import signal
from pathlib import Path

import pytest
import torch
from torch.nn.modules.module import register_module_forward_pre_hook

from tests.support.drawing.pictures import draw_classes
from tests.support.runs import COLOURS, MODERN, PAPER, ctrl_c_at, python, same, train_as
from training.__main__ import main
from training.model import AlexNet
from training.run import checkpoint, saver
from training.run.log import read_log

# Sends SIGKILL to itself at the second step of the second epoch, so that the moment is exact.
KILLED = """
import os, signal, sys
from torch.optim.optimizer import register_optimizer_step_post_hook
from training.__main__ import main

steps = iter(range(1, 1000))

def kill(*_):
    if next(steps) == 5:
        os.kill(os.getpid(), signal.SIGKILL)

register_optimizer_step_post_hook(kill)
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.parametrize(
    ("options", "update", "step"),
    [
        (PAPER, 5, 5),
        (MODERN, 4, 4),
        ([*PAPER, "--epochs", "2"], 3, 3),
        # The first step's gradients overflow: the loss scale is halved and the weights stay.
        ([*PAPER, "--precision", "fp16", "--accumulate", "2"], 3, 4),
    ],
    ids=["paper", "modern", "last-step-of-an-epoch", "fp16-accumulated"],
)
def test_an_interrupted_run_ends_with_the_same_weights(
    photographs: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    options: list[str],
    update: int,
    step: int,
) -> None:
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    assert train_as(photographs, whole, *options) == 0

    capsys.readouterr()
    with ctrl_c_at(update):
        assert train_as(photographs, broken, *options) == 130
    printed = capsys.readouterr()
    assert f"stopped after step {step}, saved; go on with --resume" in printed.err
    stopped = checkpoint.load(broken / "last.pt")
    assert stopped.metrics == {}, "metrics of an earlier epoch are not of these weights"
    assert (stopped.step, stopped.epoch) == (step, (step - 1) // 3)
    assert printed.out.count("top-1") == (step - 1) // 3

    # Without options: the checkpoint has them, and the folder of the photographs.
    assert main(["train", "--resume", "--out", str(broken), "--device", "cpu"]) == 0
    ours, theirs = checkpoint.load(broken / "last.pt"), checkpoint.load(whole / "last.pt")
    assert ours.step == theirs.step == 3 * ours.config.epochs
    for part in ("model", "raw", "optimizer", "scaler", "schedule", "metrics", "best", "mean"):
        assert same(getattr(ours, part), getattr(theirs, part)), part
    rows = [list(csv.DictReader((run / "metrics.csv").read_text().splitlines())) for run in (broken, whole)]
    assert [row["epoch"] for row in rows[0]] == ["1", "2", "3"][: ours.config.epochs]
    for column in ("loss", "top1", "top5"):
        assert [row[column] for row in rows[0]] == [row[column] for row in rows[1]]
    assert all(float(row["images_per_second"]) > 0 for row in rows[0])


def test_a_signal_leaves_a_usable_checkpoint(photographs: Path, tmp_path: Path) -> None:
    command = ["train", "--data", photographs, "--out", tmp_path / "run", *PAPER, "--epochs", 100_000]
    with python("-m", "training", *command) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        while "steps an epoch" not in (line := process.stdout.readline()):
            assert line, process.stderr.read()
        process.terminate()
        _out, errors = process.communicate()
    assert process.returncode == 130, errors
    assert "Traceback" not in errors
    state = checkpoint.load(tmp_path / "run" / "last.pt")
    assert state.step > 0
    assert checkpoint.restore_model(state).eval()(torch.zeros(1, 3, 224, 224)).isfinite().all()


def test_a_stop_during_validation_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """After Ctrl-C between its batches, or a crash, the run resumes with the validation."""
    monkeypatch.setattr(saver, "SHARE", 0)  # as if writing took no time
    data = tmp_path / "data"
    draw_classes(data / "train", COLOURS, 2, size=16)
    draw_classes(data / "val", COLOURS, 17, first=2, size=16)  # 51: a batch of 50, and one of 1
    options = [*PAPER, "--epochs", "1", "--batch-size", "3", "--ema", "0.9"]
    whole, stopped, crashed = (tmp_path / name for name in ("whole", "stopped", "crashed"))
    assert train_as(data, whole, *options) == 0

    def interrupt(module: torch.nn.Module, *_arguments: object) -> None:
        if isinstance(module, AlexNet) and not module.training:
            os.kill(os.getpid(), signal.SIGTERM)

    def crash(module: torch.nn.Module, *_arguments: object) -> None:
        if not module.training:
            raise RuntimeError("crash")

    with register_module_forward_pre_hook(interrupt):
        assert train_as(data, stopped, *options) == 130
    assert "stopped during validation after step 2, saved" in capsys.readouterr().err
    with register_module_forward_pre_hook(crash), pytest.raises(RuntimeError, match="crash"):
        train_as(data, crashed, *options)
    theirs = checkpoint.load(whole / "last.pt")
    for run in (stopped, crashed):
        state = checkpoint.load(run / "last.pt")
        assert (state.step, state.epoch, state.metrics, read_log(run)) == (2, 0, {}, [])
        assert train_as(data, run, "--resume", "--device", "cpu") == 0
        ours = checkpoint.load(run / "last.pt")
        for part in ("model", "raw", "optimizer", "metrics", "best"):
            assert same(getattr(ours, part), getattr(theirs, part)), part
        assert [row.val_loss for row in read_log(run)] == [row.val_loss for row in read_log(whole)]


def test_a_checkpoint_within_an_epoch_has_no_metrics_and_can_be_resumed(
    photographs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(saver, "EVERY", 0.0)  # seconds between checkpoints
    whole, again = tmp_path / "whole", tmp_path / "again"
    assert train_as(photographs, whole, *MODERN, "--epochs", "2", "--keep", "99") == 0
    saved = {path.stem: checkpoint.load(path) for path in whole.glob("step-*.pt")}
    assert {name: bool(state.metrics) for name, state in saved.items()} == {
        **{f"step-{step}": False for step in (1, 2, 4, 5)},
        **{f"step-{step}": True for step in (3, 6)},
    }
    again.mkdir()
    shutil.copy(whole / "step-5.pt", again / "last.pt")
    assert train_as(photographs, again, "--resume", "--device", "cpu") == 0
    ours, theirs = checkpoint.load(again / "last.pt"), checkpoint.load(whole / "last.pt")
    for part in ("model", "raw", "optimizer", "metrics", "best"):
        assert same(getattr(ours, part), getattr(theirs, part)), part


# Sends a signal when the first picture is opened, in a decoding thread, while the others run.
STOPPED_LOADING = """
import os, signal, sys

def look(event, arguments):
    if event == "open" and str(arguments[0]).endswith(sys.argv[1]):
        os.kill(os.getpid(), signal.SIGTERM)

from training.__main__ import main
sys.addaudithook(look)
sys.exit(main(sys.argv[2:]))
"""


def test_a_signal_while_loading_stops_at_once_and_leaves_nothing(photographs: Path, tmp_path: Path) -> None:
    picture = next((photographs / "train" / "blue").iterdir()).name
    command = ["train", "--data", photographs, "--out", tmp_path / "deep" / "run", *PAPER]
    with python("-c", STOPPED_LOADING, picture, *command) as process:
        _out, errors = process.communicate()
    assert (process.returncode, errors) == (130, "interrupted before there was anything to save\n")
    assert list(tmp_path.iterdir()) == []


def test_a_killed_run_resumes_from_its_last_checkpoint(photographs: Path, tmp_path: Path) -> None:
    """SIGKILL in the second epoch saves nothing; the resumed run ends with the same weights."""
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    assert train_as(photographs, whole, *PAPER) == 0
    command = ["train", "--data", photographs, "--out", killed, *PAPER]
    with python("-c", KILLED, *command) as process:
        process.communicate()
    assert process.returncode == -signal.SIGKILL
    assert checkpoint.load(killed / "last.pt").step == 3
    assert train_as(photographs, killed, *PAPER, "--resume") == 0
    ours, theirs = checkpoint.load(killed / "last.pt"), checkpoint.load(whole / "last.pt")
    assert same(ours.model, theirs.model)
    assert same(ours.optimizer, theirs.optimizer)
