"""The choice between last.pt and best.pt: last.pt, unless best.pt is better beyond chance."""

from dataclasses import replace
from pathlib import Path

import pytest

from tests.training.run.test_checkpoint import a_checkpoint
from training.__main__ import main
from training.errors import CheckpointError
from training.run import checkpoint
from training.run.choice import choose


def a_run(
    folder: Path, best: tuple[int, float], last: tuple[int, float], images: int, epochs: int = 100
) -> Path:
    """Write last.pt and best.pt, each of an epoch with its top-1."""
    folder.mkdir()
    state = a_checkpoint()
    state.config = replace(state.config, epochs=epochs)
    state.best = {"epoch": best[0], "images": images, "top1": best[1], "top5": 1.0}
    for name, (epoch, top1) in (("best.pt", best), ("last.pt", last)):
        state.epoch, state.step = epoch, 10 * epoch
        state.metrics = {"images": images, "top1": top1, "top5": 1.0}
        checkpoint.save(state, folder / name)
    return folder


@pytest.mark.parametrize(
    ("best", "last", "images", "taken", "words"),
    [
        # Observed: 97.5 % on 40 validation pictures, 81.3 % on 75 others.
        ((19, 0.975), (100, 0.95), 40, "last.pt", "the last, epoch 100 of 100; epoch 19 was 2.5 points"),
        ((95, 0.975), (100, 0.95), 40, "last.pt", "on 40 photographs, which is chance"),
        # A tie.
        ((95, 0.95), (100, 0.95), 10**6, "last.pt", "the last, epoch 100 of 100"),
        # No mistakes: a standard error of 0 would make any difference significant.
        ((95, 1.0), (100, 0.9), 40, "last.pt", "which is chance"),
        ((95, 1.0), (100, 0.5), 40, "best.pt", "epoch 95 of 100, 50.0 points better on 40 photographs"),
        ((95, 0.60), (100, 0.58), 50_000, "best.pt", "2.0 points better on 50,000 photographs than the"),
        ((80, 0.60), (100, 0.58), 50_000, "last.pt", "but before the end of the schedule"),
        ((95, 0.60), (96, 0.58), 50_000, "last.pt", "epoch 96 of 100; its schedule was not finished"),
    ],
)
def test_best_is_chosen_only_if_better_beyond_chance(
    best: tuple[int, float], last: tuple[int, float], images: int, taken: str, words: str, tmp_path: Path
) -> None:
    choice = choose(a_run(tmp_path / "run", best, last, images))
    assert choice.path.name == taken
    assert words in choice.description
    assert choice.state.metrics["top1"] == {"best.pt": best, "last.pt": last}[taken][1]


def test_every_command_chooses_the_same_checkpoint(
    photographs: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("training.export.parity.BATCHES", (1, 2))  # parity does not matter here
    run = a_run(tmp_path / "run", (1, 0.5), (3, 0.4), 10, epochs=3)
    for name in ("best.pt", "last.pt"):
        state = checkpoint.load(run / name)
        state.classes, state.mean = ("blue", "orange", "white"), [120.0] * 3
        state.provenance = {"data": "photographs", "split": None}
        checkpoint.save(state, run / name)
    words = "the last, epoch 3 of 3; epoch 1 was 10.0 points better on 10 photographs, which is chance"
    data = ["--data", str(photographs)]
    for command in (
        ["evaluate", str(run), *data, "--device", "cpu"],
        ["export", str(run), "--out", str(tmp_path / "mine")],
        ["train", "--out", str(tmp_path / "next"), *data, "--from", str(run), "--epochs", "1"],
    ):
        assert main(command) == 0
        assert words in capsys.readouterr().out
    assert (tmp_path / "mine.onnx").is_file(), "no other suffix is served"
    assert main(["report", str(run), *data]) == 0
    assert words in (run / "report.html").read_text()


def test_choose_takes_a_file_and_refuses_a_folder_without_checkpoints(tmp_path: Path) -> None:
    run = a_run(tmp_path / "run", (95, 0.6), (100, 0.5), 40)
    assert choose(run / "best.pt").description == "best.pt, epoch 95 of 100"
    (run / "last.pt").unlink()
    assert choose(run).description == "best.pt, epoch 95 of 100; there is no last.pt"
    (run / "best.pt").unlink()
    with pytest.raises(CheckpointError, match=r"neither best\.pt nor last\.pt"):
        choose(run)
