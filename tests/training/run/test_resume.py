"""Resuming with --resume: the runs that it continues or refuses, and the checkpoints kept."""

import shutil
from pathlib import Path

import pytest
import torch

from tests.support.runs import PAPER, same, train_as
from training.__main__ import main
from training.model import AlexNet
from training.run import checkpoint


def files(run: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}


def test_another_seed_gives_other_weights(photographs: Path, tmp_path: Path) -> None:
    """The seed also draws order, crops and dropout, not only the first weights."""
    assert train_as(photographs, tmp_path / "first", *PAPER, "--epochs", "1") == 0
    run = checkpoint.load(tmp_path / "first" / "last.pt")
    torch.manual_seed(5)
    run.model = AlexNet(3, 0.05).state_dict()
    checkpoint.save(run, tmp_path / "start.pt")
    for name, seed in (("a", "5"), ("b", "6"), ("again", "5")):
        start = ["--weights", str(tmp_path / "start.pt"), "--epochs", "1", "--seed", seed]
        assert train_as(photographs, tmp_path / name, *PAPER, *start) == 0
    a, b, again = (checkpoint.load(tmp_path / name / "last.pt").model for name in ("a", "b", "again"))
    assert same(dict(a), dict(again))
    assert not same(dict(a), dict(b))


def test_a_non_empty_folder_needs_resume(
    photographs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "thesis.txt").write_text("precious")
    assert train_as(photographs, tmp_path, *PAPER) == 1
    assert "is not empty; add --resume" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_resume_refuses_different_settings_and_changes_nothing(
    photographs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    assert train_as(photographs, run, *PAPER, "--epochs", "2") == 0
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
        output = capsys.readouterr().err.splitlines()
        assert len(output) == len(lines)
        for line, words in zip(output, lines, strict=True):
            assert line.startswith(f"error: {words.replace('RUN', str(run))}")
    assert files(run) == before


def test_resuming_with_more_epochs_equals_a_longer_run(
    photographs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The plateau schedule is independent of the run's end; a cosine's rate rises, with a warning."""
    whole, longer, cosine = (tmp_path / name for name in ("whole", "longer", "cosine"))
    assert train_as(photographs, whole, *PAPER, "--epochs", "2") == 0
    assert train_as(photographs, longer, *PAPER, "--epochs", "1") == 0
    capsys.readouterr()
    assert train_as(photographs, longer, "--resume") == 0
    assert "all 1 epochs have been trained; --epochs adds more" in capsys.readouterr().out
    assert train_as(photographs, longer, "--resume", *PAPER, "--epochs", "2", "--weights", "gone") == 0
    output = capsys.readouterr().out
    assert "warning: 2 epochs instead of 1\n" in output
    assert "goes on after step 3" in output
    assert "epochs = 2" in (longer / "config.toml").read_text()
    ours, theirs = checkpoint.load(longer / "last.pt"), checkpoint.load(whole / "last.pt")
    assert ours.config == theirs.config
    for part in ("model", "optimizer", "schedule", "metrics", "best"):
        assert same(getattr(ours, part), getattr(theirs, part)), part

    assert train_as(photographs, cosine, *PAPER, "--schedule", "cosine", "--epochs", "1") == 0
    assert train_as(photographs, cosine, "--resume", "--epochs", "2") == 0
    assert "the learning rate is that of the longer schedule" in capsys.readouterr().out


def test_resume_refuses_a_folder_without_last_pt(
    photographs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "best.pt").write_bytes(b"")
    (tmp_path / "step-3.pt").write_bytes(b"")
    assert train_as(photographs, tmp_path, *PAPER, "--resume") == 1
    output = capsys.readouterr().err
    assert f"{tmp_path} has no last.pt to resume from, and is not empty: best.pt, step-3.pt" in output
    assert sorted(path.name for path in tmp_path.iterdir()) == ["best.pt", "step-3.pt"]
    assert main(["init", "--out", str(tmp_path / "init"), "--classes", "3", "--width", "0.02"]) == 0
    assert main(["train", "--resume", "--out", str(tmp_path / "init")]) == 1
    assert "was not made by `train`; start a run from it with --from" in capsys.readouterr().err


def test_resuming_with_other_photographs_is_refused(
    photographs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Other photographs would change the batches of the epoch."""
    data = Path(shutil.copytree(photographs, tmp_path / "data"))
    assert train_as(data, tmp_path / "run", *PAPER, "--epochs", "1") == 0
    one = min((data / "train").glob("*/*"))
    shutil.copy(one, one.with_stem("another"))
    assert train_as(data, tmp_path / "run", *PAPER, "--epochs", "1", "--resume") == 1
    assert "1 added (such as blue/another.png)" in capsys.readouterr().err


def test_resuming_a_truncated_checkpoint_is_one_plain_error(
    photographs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    assert train_as(photographs, run, *PAPER, "--epochs", "1") == 0
    data = (run / "last.pt").read_bytes()
    (run / "last.pt").write_bytes(data[: len(data) // 2])
    assert train_as(photographs, run, *PAPER, "--epochs", "1", "--resume") == 1
    assert "last.pt is not a readable checkpoint" in capsys.readouterr().err


def test_resume_without_a_run_starts_a_new_one(
    photographs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "new").mkdir()
    assert train_as(photographs, tmp_path / "new", *PAPER, "--epochs", "1", "--resume") == 0
    assert "there is no run in" in capsys.readouterr().out
    assert checkpoint.load(tmp_path / "new" / "last.pt").step == 3


def test_the_newest_checkpoints_are_kept(photographs: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    assert train_as(photographs, run, *PAPER, "--keep", "1") == 0
    assert [path.name for path in run.glob("step-*")] == ["step-9.pt"]
    assert checkpoint.load(run / "last.pt").step == 9
    assert (run / "last.pt").samefile(run / "step-9.pt"), "two names of one file"
    assert checkpoint.load(run / "best.pt").best == checkpoint.load(run / "last.pt").best
