"""Two runs never share a folder; what a run that was killed leaves behind is no obstacle."""

import os
from pathlib import Path

import pytest

from tests.support.runs import train
from training.errors import CheckpointError
from training.run.lock import LOCK, contents, holder, locked


def test_a_folder_that_is_trained_in_is_refused(
    photographs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    with locked(run):
        for options in ([], ["--resume"]):
            assert train(photographs, run, *options) == 1
            said = capsys.readouterr().err
            assert f"error: {run} is being trained in already, by process {os.getpid()} on " in said
        with pytest.raises(CheckpointError, match="choose another folder"), locked(run):
            pass
        assert contents(run) == []
        assert holder(run)
    assert not run.exists(), "nothing was trained"
    assert train(photographs, run) == 0
    assert LOCK not in {path.name for path in run.iterdir()}
    with locked(run):
        assert train(photographs, run, "--resume") == 1
        assert "is being trained in already" in capsys.readouterr().err


def test_a_lock_that_was_left_behind_is_taken_over(photographs: Path, tmp_path: Path) -> None:
    """A kill leaves the file; the kernel has released it."""
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / LOCK).write_text("process 1 on another\n")
    assert holder(tmp_path / "run") is None
    assert train(photographs, tmp_path / "run") == 0


def test_folders_are_left_as_they_were_where_nothing_was_written(tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    for run in (empty, tmp_path / "new" / "run"):
        with locked(run) as release:
            assert holder(run)
            release()  # a process that ends at once
    assert [path.name for path in tmp_path.rglob("*")] == ["empty"]
