"""A run that was stopped and resumed ends with the weights of an unbroken one, bit for bit."""

import csv
import os
import shutil
import signal
from pathlib import Path

import pytest
import torch
from torch.nn.modules.module import register_module_forward_pre_hook

from tests.support.pictures import draw_classes
from tests.support.runs import COLOURS, python, same
from training.__main__ import main
from training.model import AlexNet
from training.run import checkpoint, saver
from training.run.log import read_log

# 12 pictures in batches of 4: 3 steps an epoch, 9 in all.
COMMON = [
    *("--recipe", "paper", "--width", "0.05", "--epochs", "3", "--batch-size", "4", "--device", "cpu"),
    *("--seed", "5"),
]
PAPER = [*COMMON, "--lr", "0.001"]
MODERN = [
    *(*COMMON, "--lr", "0.001", "--optimizer", "adamw", "--schedule", "cosine", "--warmup-epochs", "1"),
    *("--augment", "strong", "--mix", "0.5", "--ema", "0.9", "--label-smoothing", "0.1"),
    *("--weight-init", "kaiming", "--clip-norm", "1", "--precision", "bf16"),
]
# Ctrl-C at a given step, from within: the signal is real and its moment is certain.
STOPPED_AT = """
import os, signal, sys
from torch.optim.optimizer import register_optimizer_step_post_hook
from training.__main__ import main

steps = iter(range(1, 1000))

def interrupt(*_):
    if next(steps) == int(sys.argv[1]):
        os.kill(os.getpid(), signal.SIGINT)

register_optimizer_step_post_hook(interrupt)
sys.exit(main(sys.argv[2:]))
"""


def train_here(data: Path, out: Path, *options: str) -> int:
    return main(["train", "--data", str(data), "--out", str(out), *options])


def files(run: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}


@pytest.mark.parametrize(
    ("options", "update", "step"),
    [
        (PAPER, 5, 5),
        (MODERN, 4, 4),
        ([*PAPER, "--epochs", "2"], 3, 3),
        # The first step's gradients overflow: the loss scaling is halved and the weights stay.
        ([*PAPER, "--precision", "fp16", "--accumulate", "2"], 3, 4),
    ],
    ids=["paper", "modern", "last-step-of-an-epoch", "fp16-accumulated"],
)
def test_an_interrupted_run_ends_with_the_same_weights(
    photographs: Path, tmp_path: Path, options: list[str], update: int, step: int
) -> None:
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    assert train_here(photographs, whole, *options) == 0

    command = ["train", "--data", photographs, "--out", broken, *options]
    with python("-c", STOPPED_AT, update, *command) as process:
        out, errors = process.communicate()
    assert process.returncode == 130, errors
    assert f"stopped after step {step}, saved; go on with --resume" in errors
    stopped = checkpoint.load(broken / "last.pt")
    assert stopped.metrics == {}, "those of an earlier epoch are not of these weights"
    assert (stopped.step, stopped.epoch) == (step, (step - 1) // 3)
    assert out.count("top-1") == (step - 1) // 3

    # Without its options: it knows them, and where its photographs are.
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


def test_another_seed_gives_other_weights(photographs: Path, tmp_path: Path) -> None:
    """Of order, crops and dropout too, not of the first weights alone."""
    assert train_here(photographs, tmp_path / "first", *PAPER, "--epochs", "1") == 0
    run = checkpoint.load(tmp_path / "first" / "last.pt")
    torch.manual_seed(5)
    run.model = AlexNet(3, 0.05).state_dict()
    checkpoint.save(run, tmp_path / "start.pt")
    for name, seed in (("a", "5"), ("b", "6"), ("again", "5")):
        start = ["--weights", str(tmp_path / "start.pt"), "--epochs", "1", "--seed", seed]
        assert train_here(photographs, tmp_path / name, *PAPER, *start) == 0
    a, b, again = (checkpoint.load(tmp_path / name / "last.pt").model for name in ("a", "b", "again"))
    assert same(dict(a), dict(again))
    assert not same(dict(a), dict(b))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_from_outside_leaves_a_usable_checkpoint(
    photographs: Path, tmp_path: Path, number: signal.Signals
) -> None:
    command = ["train", "--data", photographs, "--out", tmp_path / "run", *COMMON, "--epochs", 100_000]
    with python("-m", "training", *command) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        while "steps an epoch" not in (line := process.stdout.readline()):
            assert line, process.stderr.read()
        process.send_signal(number)
        _out, errors = process.communicate()
    assert process.returncode == 130, errors
    assert "Traceback" not in errors
    state = checkpoint.load(tmp_path / "run" / "last.pt")
    assert state.step > 0
    assert checkpoint.restore_model(state).eval()(torch.zeros(1, 3, 224, 224)).isfinite().all()


def test_a_folder_that_is_not_empty_needs_resume(
    photographs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "thesis.txt").write_text("precious")
    assert train_here(photographs, tmp_path, *PAPER) == 1
    assert "is not empty; add --resume" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_a_setting_that_differs_is_refused_by_its_name_and_changes_nothing(
    photographs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    assert train_here(photographs, run, *PAPER, "--epochs", "2") == 0
    before = files(run)
    for given, lines in (
        (
            ["--lr", "0.002", "--seed", "6"],
            ["--lr is 0.001 in RUN and 0.002 here; leave it out", "--seed is 5"],
        ),
        (["--epochs", "1"], ["--epochs is 2 in RUN and 1 here; it can only grow"]),
        (
            ["--recipe", "paper"],
            ["--epochs", "--batch-size is 4", "--lr is 0.001 in RUN and 0.01 here"][1:],
        ),
        (
            ["--recipe", "paper", "--lr", "0.001", "--batch-size", "4", "--no-lrn"],
            ["--lrn is on in RUN and off here"],
        ),
    ):
        capsys.readouterr()
        assert main(["train", "--resume", "--out", str(run), *given]) == 1
        said = capsys.readouterr().err.splitlines()
        assert len(said) == len(lines)
        for line, words in zip(said, lines, strict=True):
            assert line.startswith(f"error: {words.replace('RUN', str(run))}")
    assert files(run) == before


def test_more_epochs_are_those_of_a_longer_run(
    photographs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """With the paper's schedule, which looks at no end; a cosine's rate rises, and that is said."""
    whole, longer, cosine = (tmp_path / name for name in ("whole", "longer", "cosine"))
    assert train_here(photographs, whole, *PAPER, "--epochs", "2") == 0
    assert train_here(photographs, longer, *PAPER, "--epochs", "1") == 0
    capsys.readouterr()
    assert train_here(photographs, longer, "--resume") == 0
    assert "all 1 epochs have been trained; --epochs adds more" in capsys.readouterr().out
    assert train_here(photographs, longer, "--resume", *PAPER, "--epochs", "2", "--weights", "gone") == 0
    said = capsys.readouterr().out
    assert "warning: 2 epochs instead of 1\n" in said
    assert "goes on after step 3" in said
    assert "epochs = 2" in (longer / "config.toml").read_text()
    ours, theirs = checkpoint.load(longer / "last.pt"), checkpoint.load(whole / "last.pt")
    assert ours.config == theirs.config
    for part in ("model", "optimizer", "schedule", "metrics", "best"):
        assert same(getattr(ours, part), getattr(theirs, part)), part

    assert train_here(photographs, cosine, *PAPER, "--schedule", "cosine", "--epochs", "1") == 0
    assert train_here(photographs, cosine, "--resume", "--epochs", "2") == 0
    assert "the learning rate is that of the longer schedule" in capsys.readouterr().out


def test_a_stop_in_the_validation_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Ctrl-C between its batches, or a crash: the run goes on with the validation."""
    monkeypatch.setattr(saver, "SHARE", 0)  # as if writing took no time
    data = tmp_path / "data"
    draw_classes(data / "train", COLOURS, 2, size=16)
    draw_classes(data / "val", COLOURS, 17, first=2, size=16)  # 51: a batch of 50, and one of 1
    options = [*PAPER, "--epochs", "1", "--batch-size", "3", "--ema", "0.9"]
    whole, stopped, crashed = (tmp_path / name for name in ("whole", "stopped", "crashed"))
    assert train_here(data, whole, *options) == 0

    def interrupt(module: torch.nn.Module, *_arguments: object) -> None:
        if isinstance(module, AlexNet) and not module.training:
            os.kill(os.getpid(), signal.SIGTERM)

    def crash(module: torch.nn.Module, *_arguments: object) -> None:
        if not module.training:
            raise RuntimeError("crash")

    with register_module_forward_pre_hook(interrupt):
        assert train_here(data, stopped, *options) == 130
    assert "stopped in the validation after step 2, saved" in capsys.readouterr().err
    with register_module_forward_pre_hook(crash), pytest.raises(RuntimeError, match="crash"):
        train_here(data, crashed, *options)
    theirs = checkpoint.load(whole / "last.pt")
    for run in (stopped, crashed):
        state = checkpoint.load(run / "last.pt")
        assert (state.step, state.epoch, state.metrics, read_log(run)) == (2, 0, {}, [])
        assert train_here(data, run, "--resume", "--device", "cpu") == 0
        ours = checkpoint.load(run / "last.pt")
        for part in ("model", "raw", "optimizer", "metrics", "best"):
            assert same(getattr(ours, part), getattr(theirs, part)), part
        assert [row.val_loss for row in read_log(run)] == [row.val_loss for row in read_log(whole)]


def test_a_checkpoint_within_an_epoch_carries_no_metrics_and_is_gone_on_from(
    photographs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(saver, "EVERY", 0.0)  # seconds between checkpoints
    whole, again = tmp_path / "whole", tmp_path / "again"
    assert train_here(photographs, whole, *MODERN, "--epochs", "2", "--keep", "99") == 0
    kept = {path.stem: checkpoint.load(path) for path in whole.glob("step-*.pt")}
    assert {name: bool(state.metrics) for name, state in kept.items()} == {
        **{f"step-{step}": False for step in (1, 2, 4, 5)},
        **{f"step-{step}": True for step in (3, 6)},
    }
    again.mkdir()
    shutil.copy(whole / "step-5.pt", again / "last.pt")
    assert train_here(photographs, again, "--resume", "--device", "cpu") == 0
    ours, theirs = checkpoint.load(again / "last.pt"), checkpoint.load(whole / "last.pt")
    for part in ("model", "raw", "optimizer", "metrics", "best"):
        assert same(getattr(ours, part), getattr(theirs, part)), part


# A signal at the first picture that is opened: in a thread that decodes, while the others go on.
STOPPED_LOADING = """
import os, signal, sys

def look(event, arguments):
    if event == "open" and str(arguments[0]).endswith(sys.argv[1]):
        os.kill(os.getpid(), signal.SIGTERM)

from training.__main__ import main
sys.addaudithook(look)
sys.exit(main(sys.argv[2:]))
"""


def test_a_signal_while_loading_ends_at_once_and_leaves_nothing(photographs: Path, tmp_path: Path) -> None:
    picture = next((photographs / "train" / "blue").iterdir()).name
    command = ["train", "--data", photographs, "--out", tmp_path / "deep" / "run", *PAPER]
    with python("-c", STOPPED_LOADING, picture, *command) as process:
        _out, errors = process.communicate()
    assert (process.returncode, errors) == (130, "interrupted before there was anything to save\n")
    assert list(tmp_path.iterdir()) == []


def test_a_folder_without_last_pt_is_not_gone_on_with(
    photographs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "best.pt").write_bytes(b"")
    (tmp_path / "step-3.pt").write_bytes(b"")
    assert train_here(photographs, tmp_path, *PAPER, "--resume") == 1
    said = capsys.readouterr().err
    assert f"{tmp_path} has no last.pt to go on from, and is not empty: best.pt, step-3.pt" in said
    assert sorted(path.name for path in tmp_path.iterdir()) == ["best.pt", "step-3.pt"]
    assert main(["init", "--out", str(tmp_path / "init"), "--classes", "3", "--width", "0.02"]) == 0
    assert main(["train", "--resume", "--out", str(tmp_path / "init")]) == 1
    assert "was not made by `train`; start a run from it with --from" in capsys.readouterr().err


def test_resuming_with_other_photographs_is_refused(
    photographs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The place in the epoch would mean nothing."""
    data = Path(shutil.copytree(photographs, tmp_path / "data"))
    assert train_here(data, tmp_path / "run", *PAPER, "--epochs", "1") == 0
    one = min((data / "train").glob("*/*"))
    shutil.copy(one, one.with_stem("another"))
    assert train_here(data, tmp_path / "run", *PAPER, "--epochs", "1", "--resume") == 1
    assert "1 added (such as blue/another.png)" in capsys.readouterr().err


def test_resuming_a_cut_off_checkpoint_is_a_plain_error(
    photographs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    assert train_here(photographs, run, *PAPER, "--epochs", "1") == 0
    data = (run / "last.pt").read_bytes()
    (run / "last.pt").write_bytes(data[: len(data) // 2])
    assert train_here(photographs, run, *PAPER, "--epochs", "1", "--resume") == 1
    assert "last.pt is not a readable checkpoint" in capsys.readouterr().err


def test_resume_where_nothing_was_begun_begins(
    photographs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "new").mkdir()
    assert train_here(photographs, tmp_path / "new", *PAPER, "--epochs", "1", "--resume") == 0
    assert "there is no run in" in capsys.readouterr().out
    assert checkpoint.load(tmp_path / "new" / "last.pt").step == 3


def test_a_run_that_was_killed_goes_on_from_its_last_checkpoint(photographs: Path, tmp_path: Path) -> None:
    """SIGKILL in the second epoch: nothing could be saved, and nothing is different."""
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    assert train_here(photographs, whole, *PAPER) == 0
    command = ["train", "--data", photographs, "--out", killed, *PAPER]
    kill = STOPPED_AT.replace("SIGINT", "SIGKILL")
    with python("-c", kill, 5, *command) as process:
        process.communicate()
    assert process.returncode == -signal.SIGKILL
    assert checkpoint.load(killed / "last.pt").step == 3
    assert train_here(photographs, killed, *PAPER, "--resume") == 0
    ours, theirs = checkpoint.load(killed / "last.pt"), checkpoint.load(whole / "last.pt")
    assert same(ours.model, theirs.model)
    assert same(ours.optimizer, theirs.optimizer)


def test_the_newest_checkpoints_stay(photographs: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    assert train_here(photographs, run, *PAPER, "--keep", "1") == 0
    assert [path.name for path in run.glob("step-*")] == ["step-9.pt"]
    assert checkpoint.load(run / "last.pt").step == 9
    assert (run / "last.pt").samefile(run / "step-9.pt"), "one file under two names"
    assert checkpoint.load(run / "best.pt").best == checkpoint.load(run / "last.pt").best
