"""The output of a run: progress, time left, and the next command."""

import re
import shlex
from pathlib import Path

import pytest
import torch

from tests.support.runs import train
from training.cli import advice
from training.evaluate import evaluate, probabilities_of, torch_classifier
from training.run import checkpoint, progress
from training.run.held_out import load_held_out, record_of
from training.run.log import read_log
from training.run.progress import duration


def test_lines_without_a_terminal_have_step_loss_and_time_left(
    photographs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(progress, "EVERY", 0.0)  # seconds between two lines
    monkeypatch.setenv("ALEXNET_COMMAND", "scripts/training")
    run = tmp_path / "My Run"
    assert train(photographs, run, "--epochs", "2") == 0
    output = capsys.readouterr().out
    assert re.search(r"^epoch 1/2  step 2/3  loss \d\.\d+  \d+ s left$", output, re.MULTILINE)
    assert "step 3/3" not in output, "the line of the epoch follows"
    assert re.search(r"^epoch 1/2  step 1/3  loss \d\.\d+$", output, re.MULTILINE), "no step was timed yet"
    row = r"loss \d\.\d{3}, validation \d\.\d{3}  top-1 .* top-5 .* waiting for data"
    assert re.search(rf"^epoch 1/2  {row}  \d+ s left$", output, re.MULTILINE)
    assert re.search(rf"^epoch 2/2  {row}$", output, re.MULTILINE)
    (command,) = re.findall(r"^now: (.*)$", output, re.MULTILINE)
    words = ["export", str(run), "--out", "models/my-run.onnx", "--data", str(photographs)]
    assert shlex.split(command) == ["scripts/training", *words]

    state = checkpoint.load(run / "last.pt")
    split = load_held_out(photographs, record_of(state)).split
    classify = torch_classifier(checkpoint.restore_model(state), state.mean, state.std)
    right = probabilities_of(classify, split, state.recipe)[torch.arange(len(split)), split.labels]
    expected = -right.double().log().mean().item()
    assert read_log(run)[-1].val_loss == pytest.approx(expected, rel=1e-4)
    assert evaluate(classify, split, state.recipe).loss == pytest.approx(expected, rel=1e-4)


def test_a_run_on_small_pictures_suggests_one_at_full_size(
    photographs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train(photographs, tmp_path / "small", "--image-size", "64") == 0
    output = capsys.readouterr().out
    assert f"train --data {photographs} --out {tmp_path}/small-224" in output
    assert f"{tmp_path}/small\n" in output


@pytest.mark.parametrize(
    ("folder", "name"),
    [("Mine", "mine"), ("a b/Ünï 2", "n-2"), ("_x.", "x"), ("花", "model"), ("a" * 80, "a" * 64)],
)
def test_model_name_is_derived_from_the_run_folder(folder: str, name: str) -> None:
    assert advice.model_name(Path(folder)) == name


def test_durations_are_printed_in_their_largest_units() -> None:
    times = {0.4: "0 s", 89: "89 s", 90: "2 min", 3540: "59 min", 3600: "1 h 0 min", 86_000: "23 h 53 min"}
    times |= {90_000: "1 d 1 h", 8 * 86_400: "8 d 0 h"}
    assert {seconds: duration(seconds) for seconds in times} == times
