"""Checkpoints are restored exactly, replaced atomically, and refused if they are bad."""

from dataclasses import asdict
from pathlib import Path

import pytest
import torch

from tests.support.full_disk import full_disk
from training.config import Config
from training.errors import CheckpointError
from training.model import AlexNet
from training.run import checkpoint
from training.run.checkpoint import Checkpoint


def a_checkpoint(seed: int = 0) -> Checkpoint:
    config = Config(width=0.02, epochs=3)
    torch.manual_seed(seed)
    model = AlexNet(3, config.width)
    return Checkpoint(
        config,
        ("a", "b", "ç"),
        [1.5, 2.5, 3.5],
        [58.0, 57.0, 59.0],
        model.state_dict(),
        step=7,
        epoch=1,
        metrics={"images": 4, "top1": 0.5, "top5": 1.0},
        schedule={"top1": 0.5, "waited": 2},
        provenance={"data": "flowers"},
    )


def test_save_and_load_preserve_every_field(tmp_path: Path) -> None:
    state = a_checkpoint()
    checkpoint.save(state, tmp_path / "last.pt")
    again = checkpoint.load(tmp_path / "last.pt")
    assert set(again.model) == set(state.model)
    assert all(torch.equal(again.model[k], v) for k, v in state.model.items())
    again.model = state.model
    assert again == state
    model = checkpoint.restore_model(again)
    assert all(torch.equal(v, state.model[k]) for k, v in model.state_dict().items())


def test_a_checkpoint_loads_without_running_code(tmp_path: Path) -> None:
    checkpoint.save(a_checkpoint(), tmp_path / "last.pt")
    record = torch.load(tmp_path / "last.pt", weights_only=True)
    assert record["config"] == asdict(Config(width=0.02, epochs=3))


@pytest.mark.parametrize("share", [0, 0.01, 0.5, 0.9, 0.999])
def test_a_truncated_checkpoint_is_refused(tmp_path: Path, share: float) -> None:
    path = tmp_path / "last.pt"
    checkpoint.save(a_checkpoint(), path)
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    with pytest.raises(CheckpointError, match=r"last\.pt is not a readable checkpoint: \S") as error:
        checkpoint.load(path)
    assert "\n" not in str(error.value)


def test_other_files_and_missing_ones_are_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"none\.pt does not exist"):
        checkpoint.load(tmp_path / "none.pt")
    (tmp_path / "text.pt").write_text("not a checkpoint")
    with pytest.raises(CheckpointError, match=r"text\.pt is not a readable checkpoint") as error:
        checkpoint.load(tmp_path / "text.pt")
    assert "weights_only" not in str(error.value)  # torch's own advice would run the file's code
    torch.save({"state_dict": {}}, tmp_path / "other.pt")
    with pytest.raises(CheckpointError, match=r"other\.pt is not a checkpoint of this program.*`import`"):
        checkpoint.load(tmp_path / "other.pt")
    torch.save(torch.nn.Linear(2, 2), tmp_path / "code.pt")
    with pytest.raises(CheckpointError, match=r"code\.pt is not a readable checkpoint"):
        checkpoint.load(tmp_path / "code.pt")


def test_a_setting_of_another_version_is_named(tmp_path: Path) -> None:
    checkpoint.save(a_checkpoint(), tmp_path / "last.pt")
    record = torch.load(tmp_path / "last.pt", weights_only=True)
    record["config"]["colour_space"] = "lab"
    torch.save(record, tmp_path / "last.pt")
    with pytest.raises(
        CheckpointError,
        match=r"last\.pt was written by a newer version of this program, with 'colour_space'",
    ):
        checkpoint.load(tmp_path / "last.pt")


def test_a_failing_write_leaves_the_old_file_and_nothing_beside_it(tmp_path: Path) -> None:
    path = tmp_path / "last.pt"
    checkpoint.save(a_checkpoint(), path)
    before = path.read_bytes()
    state = a_checkpoint()
    state.step = 8
    with full_disk(len(before) // 2), pytest.raises(CheckpointError) as raised:
        checkpoint.save(state, path)
    assert str(raised.value) == f"{path} cannot be written: File too large"
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]
    assert checkpoint.load(path).step == 7


def test_the_best_is_written_before_the_last(tmp_path: Path) -> None:
    """After a crash in between, the run resumes from the old last.pt and writes the same best.pt."""
    state = a_checkpoint()
    checkpoint.save_step(state, tmp_path, keep=2, best=True)
    (tmp_path / "last.pt.partial").mkdir()  # makes writing the second of the two fail
    state.step = 8
    with pytest.raises(OSError, match=r"last\.pt\.partial"):
        checkpoint.save_step(state, tmp_path, keep=2, best=True)
    assert checkpoint.load(tmp_path / "best.pt").step == 8
    assert checkpoint.load(tmp_path / "last.pt").step == 7
