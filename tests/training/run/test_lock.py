"""Two runs never share a folder; the lock file of a killed run does not block it."""

import os
from pathlib import Path

import pytest

from tests.support.runs import train
from training.errors import CheckpointError
from training.run.lock import LOCK, contents, holder, locked


def test_a_locked_run_folder_is_refused(
    photographs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    with locked(run):
        for options in ([], ["--resume"]):
            assert train(photographs, run, *options) == 1
            output = capsys.readouterr().err
            assert f"error: {run} is being trained in already, by process {os.getpid()} on " in output
        with pytest.raises(CheckpointError, match="choose another folder"), locked(run):
            pass
        assert contents(run) == []
        assert holder(run)
    assert not run.exists(), "no folder was created"
    assert train(photographs, run) == 0
    assert LOCK not in {path.name for path in run.iterdir()}
    with locked(run):
        assert train(photographs, run, "--resume") == 1
        assert "is being trained in already" in capsys.readouterr().err


def test_a_stale_lock_file_is_taken_over(photographs: Path, tmp_path: Path) -> None:
    """A kill leaves the file, but the kernel has released its lock."""
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / LOCK).write_text("process 1 on another\n")
    assert holder(tmp_path / "run") is None
    assert train(photographs, tmp_path / "run") == 0


def test_new_folders_are_removed_if_nothing_was_written(tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    for run in (empty, tmp_path / "new" / "run"):
        with locked(run) as release:
            assert holder(run)
            release()  # as a process that exits at once
    assert [path.name for path in tmp_path.rglob("*")] == ["empty"]
