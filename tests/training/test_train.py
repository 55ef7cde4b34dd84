"""Training runs from the command line: what they learn from their data, and the files they write."""

import csv
import re
from pathlib import Path

import pytest
import torch

from contract.recipe import DEFAULT_RECIPE
from tests.support.drawing.pictures import draw_classes
from tests.support.runs import train
from training.__main__ import main
from training.config import load_config
from training.data.folders import find_trees
from training.data.images import load_pictures
from training.run import checkpoint
from training.run.choice import choose


def test_training_learns_two_colours(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Labels, crops, mean and evaluation fit together; guessing would be right half of the time."""
    data = draw_classes(tmp_path / "data", {"red": (190, 60, 50), "teal": (40, 140, 150)}, 15)
    options = ["--width", "0.1", "--epochs", "6", "--optimizer", "adamw", "--weight-init", "kaiming"]
    assert train(data, tmp_path / "run", *options) == 0
    assert checkpoint.load(tmp_path / "run" / "best.pt").metrics["top1"] > 0.9
    capsys.readouterr()
    assert (
        main(["evaluate", str(tmp_path / "run"), "--data", str(data), "--ten-crop", "--device", "cpu"]) == 0
    )
    output = capsys.readouterr().out
    assert "6 images, 10 crop(s) each, 0 skipped" in output, "the training photographs were measured too"
    shares = re.search(r"top-1 ([\d.]+) % .* 6 photographs\)  top-5 100.0 %", output)
    assert shares is not None
    assert float(shares[1]) > 90
    assert re.search(r"red +3 ", output)


def test_a_run_writes_checkpoints_settings_and_a_log(photographs: Path, tmp_path: Path) -> None:
    run = tmp_path / "deep" / "run"
    assert train(photographs, run, "--epochs", "2", "--seed", "3") == 0
    assert {path.name for path in run.iterdir()} == {
        *("best.pt", "last.pt", "step-3.pt", "step-6.pt", "config.toml", "metrics.csv", "tensorboard")
    }
    state = checkpoint.load(run / "last.pt")
    assert load_config(str(run / "config.toml"), {}) == state.config
    assert (state.config.seed, state.config.epochs, state.epoch, state.step) == (3, 2, 2, 6)
    assert state.classes == ("blue", "orange", "white")
    assert state.provenance["images"] == 12
    assert state.metrics["images"] == 6
    log = list(csv.DictReader((run / "metrics.csv").read_text().splitlines()))
    assert [row["epoch"] for row in log] == ["1", "2"]
    assert float(log[1]["top1"]) == pytest.approx(state.metrics["top1"], abs=1e-4)
    best = checkpoint.load(run / "best.pt")
    top1 = [float(row["top1"]) for row in log]
    assert best.epoch == 1 + top1.index(max(top1)), "the first of the best epochs"
    assert best.metrics["top1"] == pytest.approx(max(top1), abs=1e-4)


def test_the_mean_is_that_of_the_training_pictures_alone(photographs: Path, tmp_path: Path) -> None:
    assert train(photographs, tmp_path / "run") == 0
    _parts, (tree, _val) = find_trees(photographs)
    split, _reading = load_pictures(tree.samples, DEFAULT_RECIPE, "train")
    expected = split.pixels.double().mean((0, 1, 2))
    torch.testing.assert_close(
        torch.tensor(checkpoint.load(tmp_path / "run" / "last.pt").mean).double(),
        expected,
        rtol=1e-5,
        atol=0,
    )


def test_unreadable_files_are_counted_and_listed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = draw_classes(tmp_path / "data", {"a": (200, 50, 50), "b": (50, 50, 200)}, 6, size=32)
    (data / "a" / "broken.jpg").write_bytes(b"\xff\xd8\xff\xe0 and no more")
    (data / "b" / "readme.txt").write_text("words")
    assert train(data, tmp_path / "run") == 0
    output = capsys.readouterr().out
    assert f"skipped {data / 'a' / 'broken.jpg'}: the JPEG file is corrupt" in output
    assert "files that are not pictures: 1 .txt" in output
    assert "10 images to train on, 2 to validate on, 2 classes, 1 skipped" in output


def test_fewer_pictures_than_a_batch_are_one_batch(photographs: Path, tmp_path: Path) -> None:
    assert train(photographs, tmp_path / "run", "--batch-size", "1000") == 0
    assert checkpoint.load(tmp_path / "run" / "last.pt").step == 1


def test_weights_are_copied_and_the_layer_of_other_classes_starts_afresh(
    photographs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """With a learning rate near 0, the layers keep the weights that they started with."""
    assert train(photographs, tmp_path / "first") == 0
    data = draw_classes(tmp_path / "data", {"red": (190, 60, 50), "teal": (40, 140, 150)}, 5)
    capsys.readouterr()
    options = ["--weights", str(tmp_path / "first"), "--lr", "1e-12"]
    assert train(data, tmp_path / "second", *options) == 0
    assert "afresh: fc8" in capsys.readouterr().out
    first, second = (choose(tmp_path / name).state for name in ("first", "second"))
    for name, values in second.model.items():
        if name.startswith("fc8"):
            assert len(values) == 2
        else:
            torch.testing.assert_close(values, first.model[name], rtol=0, atol=1e-6)


def test_weights_for_the_same_classes_are_copied_completely(
    photographs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train(photographs, tmp_path / "first") == 0
    options = ["--weights", str(tmp_path / "first" / "last.pt"), "--lr", "1e-12"]
    assert train(photographs, tmp_path / "second", *options) == 0
    assert "afresh: nothing" in capsys.readouterr().out
    first, second = (checkpoint.load(tmp_path / name / "last.pt") for name in ("first", "second"))
    torch.testing.assert_close(second.model["fc8.weight"], first.model["fc8.weight"], rtol=0, atol=1e-6)


def test_convolutions_pre_trained_on_smaller_images_are_copied(
    photographs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train(photographs, tmp_path / "first", "--image-size", "112") == 0
    assert train(photographs, tmp_path / "second", "--weights", str(tmp_path / "first")) == 0
    assert "afresh: fc6" in capsys.readouterr().out


def test_weights_of_another_width_are_refused(
    photographs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train(photographs, tmp_path / "first", "--width", "0.1") == 0
    (tmp_path / "first" / "best.pt").rename(tmp_path / "wide.pt")
    data = draw_classes(tmp_path / "data", {"red": (190, 60, 50), "teal": (40, 140, 150)}, 5)
    assert train(data, tmp_path / "second", "--weights", str(tmp_path / "wide.pt")) == 1
    assert "--from has width 0.1, this run 0.05; use the same value" in capsys.readouterr().err
    assert not (tmp_path / "second").exists()


def test_another_number_of_classes_than_expected_is_refused(
    photographs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train(photographs, tmp_path / "run", "--classes", "3") == 0
    assert train(photographs, tmp_path / "other", "--classes", "1000") == 1
    assert re.search(r"--classes is 1000, and .* has 3 class folders", capsys.readouterr().err)


@pytest.mark.slow  # half a minute of compiling
@pytest.mark.filterwarnings("ignore::DeprecationWarning:torch")
def test_a_compiled_network_trains_the_same(photographs: Path, tmp_path: Path) -> None:
    for name, options in (("compiled", ["--compile"]), ("plain", [])):
        assert train(photographs, tmp_path / name, "--epochs", "2", "--no-dropout", *options) == 0
    logs = [(tmp_path / name / "metrics.csv").read_text() for name in ("compiled", "plain")]
    losses = [[float(row["loss"]) for row in csv.DictReader(log.splitlines())] for log in logs]
    assert losses[0] == pytest.approx(losses[1], rel=1e-3)


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_half_precision_trains_like_full_precision(
    photographs: Path, tmp_path: Path, precision: str
) -> None:
    options = ["--epochs", "2", "--no-dropout", "--weight-init", "kaiming"]
    for name in (precision, "fp32"):
        assert train(photographs, tmp_path / name, *options, "--precision", name) == 0
    logs = [(tmp_path / name / "metrics.csv").read_text() for name in (precision, "fp32")]
    losses = [[float(row["loss"]) for row in csv.DictReader(log.splitlines())] for log in logs]
    assert losses[0] == pytest.approx(losses[1], rel=0.02)
    assert losses[0] != losses[1]


def test_no_run_folder_is_created_for_bad_data(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert train(tmp_path / "nowhere", tmp_path / "run") == 1
    assert "nowhere is not a folder" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
