"""Training with --background: its batches, a resume that is bit-equal, and what is refused."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tests.support.runs import MODERN, ctrl_c_at, same, train_as
from training.batches import augmented, load_ahead
from training.config import Config
from training.data.background import load_background
from training.data.prepared import load_dataset
from training.distributed import Ranks
from training.errors import DataError
from training.run import checkpoint


@pytest.fixture
def background(tmp_path: Path) -> Path:
    """Draw noise, at different depths, beside a file that is no picture."""
    (tmp_path / "things" / "deeper").mkdir(parents=True)
    for number in range(5):
        pixels = np.random.default_rng(number).integers(0, 256, (40, 60, 3), np.uint8)
        place = tmp_path / "things" / ("deeper" if number % 2 else "")
        Image.fromarray(pixels).save(place / f"{number}.png")
    (tmp_path / "things" / "notes.txt").write_text("not a picture")
    return tmp_path / "things"


def test_pictures_are_found_at_any_depth_and_always_the_same(background: Path) -> None:
    recipe = Config().recipe
    (background / "broken.png").write_bytes(b"not a picture")
    names = load_background(background, recipe, "background").names
    assert names == ("0.png", "2.png", "4.png", "deeper/1.png", "deeper/3.png")
    some = load_background(background, recipe, "background", count=3)
    assert some.names == load_background(background, recipe, "background", count=3).names
    (background / "empty").mkdir()
    with pytest.raises(DataError, match="empty has no picture that can be read; background needs some"):
        load_background(background / "empty", recipe, "background")


def test_half_as_many_background_pictures_join_each_batch(photographs: Path, background: Path) -> None:
    config = Config(batch_size=4, augment="strong", label_smoothing=0.1, seed=3)
    dataset = load_dataset(photographs, config)
    pictures = load_background(background, config.recipe, "background")
    dataset = replace(dataset, background=pictures)
    ranks = Ranks(torch.device("cpu"))
    batches = list(load_ahead(dataset, config, batch_size=4, steps=range(3), ranks=ranks, workers=1))
    assert [batch.background.shape for batch in batches] == [(2, 256, 256, 3)] * 3
    assert not torch.equal(batches[0].background, batches[1].background)
    pixels, targets = augmented(batches[0], config, 3, torch.zeros(3, 3))
    assert pixels.shape == (6, 3, 224, 224)
    assert pixels.min() >= 0
    assert pixels.max() <= 255
    torch.testing.assert_close(targets[4:], torch.full((2, 3), 1 / 3))
    assert (targets[:4].max(1).values > 0.9).all()


def test_a_resumed_run_has_the_weights_of_an_uninterrupted_one(
    photographs: Path, background: Path, tmp_path: Path
) -> None:
    options = [*MODERN, "--background", str(background)]
    assert train_as(photographs, tmp_path / "whole", *options) == 0
    with ctrl_c_at(4):
        assert train_as(photographs, tmp_path / "parts", *options) == 130
    assert train_as(photographs, tmp_path / "parts", "--resume", *MODERN) == 0
    whole, parts = (checkpoint.load(tmp_path / name / "last.pt") for name in ("whole", "parts"))
    assert same(dict(whole.model), dict(parts.model))
    assert whole.provenance["background"]["pictures"] == 5
    assert train_as(photographs, tmp_path / "without", *MODERN) == 0
    assert not same(dict(whole.model), dict(checkpoint.load(tmp_path / "without" / "last.pt").model))


def test_resuming_with_another_background_is_refused(
    photographs: Path, background: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = [*MODERN, "--epochs", "1", "--background", str(background)]
    assert train_as(photographs, tmp_path / "run", *options) == 0
    (background / "0.png").unlink()
    assert train_as(photographs, tmp_path / "run", "--resume", *MODERN, "--epochs", "2") == 1
    assert "was started with other background pictures" in capsys.readouterr().err


def test_a_missing_background_is_one_line(
    photographs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train_as(photographs, tmp_path / "run", *MODERN, "--background", str(tmp_path / "none")) == 1
    (line,) = (line for line in capsys.readouterr().err.splitlines() if line.startswith("error: "))
    assert "none is not a folder; background needs one with pictures" in line
