"""A prepared folder is what the photographs were: the same pixels, the same run, the same evaluation."""

from pathlib import Path

import pytest
import torch

from tests.pictures import draw_classes
from tests.training.runs import same
from training import checkpoint
from training.__main__ import main
from training.config import Config
from training.data import DataError
from training.prepared import load_dataset, load_held_out, prepare

COLOURS = {"iris": (60, 40, 200), "daisy": (230, 230, 210), "rose": (200, 30, 50)}
TRAIN = ["--width", "0.05", "--epochs", "1", "--batch-size", "4", "--device", "cpu", "--lr", "0.001"]


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """One tree, so that it is split, with a file that is no picture."""
    root = draw_classes(tmp_path / "photos", COLOURS, 5, size=300)
    (root / "iris" / "notes.txt").write_text("bought in Kew")
    return root


def test_it_holds_what_the_photographs_give(photos: Path, tmp_path: Path) -> None:
    config = Config(val_fraction=0.4, seed=3)
    written = prepare(photos, tmp_path / "ready", config, workers=2)
    read, raw = load_dataset(tmp_path / "ready", config), load_dataset(photos, config)
    for dataset in (written, read):
        for name in ("train", "val"):
            ours, theirs = getattr(dataset, name), getattr(raw, name)
            assert torch.equal(ours.squares, theirs.squares)
            assert torch.equal(ours.labels, theirs.labels)
            assert ours.skipped == theirs.skipped
        for key in ("name", "classes", "split", "mean", "covariance"):
            assert same(getattr(dataset, key), getattr(raw, key)), key


def test_a_run_on_it_is_the_run_on_the_photographs(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["prepare", "--data", str(photos), "--out", str(tmp_path / "ready")]) == 0
    said = capsys.readouterr().out
    assert "12 images to train on, 3 to validate on, 3 classes, 1 skipped, 3 MB" in said
    assert "notes.txt: not an image in a known format" in said
    for name, data in (("ours", tmp_path / "ready"), ("theirs", photos)):
        assert main(["train", "--data", str(data), "--out", str(tmp_path / name), *TRAIN]) == 0
    ours, theirs = (checkpoint.load(tmp_path / name / "last.pt") for name in ("ours", "theirs"))
    assert same(ours.model, theirs.model)
    assert {**ours.provenance, "seconds": 0} == {**theirs.provenance, "seconds": 0}
    capsys.readouterr()
    for data in (tmp_path / "ready", photos):
        assert main(["evaluate", str(tmp_path / "ours"), "--data", str(data), "--device", "cpu"]) == 0
        assert "3 images, 1 crop(s) each, " in capsys.readouterr().out


def test_labels_go_by_the_names_of_the_classes(photos: Path, tmp_path: Path) -> None:
    config = Config()
    prepare(photos, tmp_path / "ready", config)
    trained = ("rose", "iris", "tulip", "daisy")
    split = load_held_out(tmp_path / "ready", trained, {}, config.recipe)
    assert [trained[label] for label in split.labels] == ["daisy", "iris", "rose"]
    with pytest.raises(DataError, match=r"class 'rose' in .*ready is not among those trained: iris, daisy"):
        load_held_out(tmp_path / "ready", ("iris", "daisy"), {}, config.recipe)


def test_what_was_prepared_otherwise_or_is_damaged_is_refused(photos: Path, tmp_path: Path) -> None:
    ready = tmp_path / "ready"
    prepare(photos, ready, Config(image_size=112))
    with pytest.raises(DataError, match=r"at 128 pixels; this needs .* at 256.*--image-size"):
        load_dataset(ready, Config())
    with pytest.raises(DataError, match="is not empty; choose another folder"):
        prepare(photos, ready, Config(image_size=112))
    pixels = ready / "val.pixels"
    pixels.write_bytes(pixels.read_bytes()[:-1])
    with pytest.raises(DataError, match=r"val.pixels has \d+ bytes, not \d+; prepare it again"):
        load_dataset(ready, Config(image_size=112))
    (ready / "prepared.json").write_text("{")
    with pytest.raises(DataError, match=r"prepared.json is damaged: .*; prepare the photographs again"):
        load_dataset(ready, Config(image_size=112))


def test_what_was_cut_off_is_begun_anew(photos: Path, tmp_path: Path) -> None:
    config = Config()
    whole = prepare(photos, tmp_path / "ready", config)
    (tmp_path / "ready" / "prepared.json").unlink()  # written last
    (tmp_path / "ready" / "val.pixels").write_bytes(b"half a picture")
    assert torch.equal(prepare(photos, tmp_path / "ready", config).val.squares, whole.val.squares)
