"""A prepared folder gives the same pixels, runs and evaluations as its photographs."""

from pathlib import Path

import pytest
import torch

from tests.support.drawing.pictures import draw_classes
from tests.support.runs import same
from training.__main__ import main
from training.config import Config
from training.data.prepared import load_dataset, prepare
from training.errors import DataError
from training.run import checkpoint
from training.run.checkpoint import Checkpoint
from training.run.held_out import load_held_out, record_of

COLOURS = {"iris": (60, 40, 200), "daisy": (230, 230, 210), "rose": (200, 30, 50)}
TRAIN = ["--recipe", "paper", "--width", "0.05", "--epochs", "1", "--batch-size", "4", "--device", "cpu"]


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Make one tree, to be split, with an unreadable picture and a file that is not a picture."""
    root = draw_classes(tmp_path / "photos", COLOURS, 5, size=300)
    (root / "iris" / "cut.png").write_bytes(b"no picture")
    (root / "iris" / "notes.txt").write_text("bought in Kew")
    return root


def test_a_prepared_folder_gives_the_same_data_set(photos: Path, tmp_path: Path) -> None:
    config = Config(val_fraction=0.4, seed=3)
    written = prepare(photos, tmp_path / "ready", config, workers=2)
    read, raw = load_dataset(tmp_path / "ready", config), load_dataset(photos, config)
    for dataset in (written, read):
        for name in ("train", "val"):
            ours, theirs = getattr(dataset, name), getattr(raw, name)
            every = torch.arange(len(theirs))
            assert torch.equal(ours.squares(every), theirs.squares(every))
            assert same(
                [ours.labels, ours.digests, ours.names], [theirs.labels, theirs.digests, theirs.names]
            )
        for key in ("name", "classes", "split", "mean", "covariance", "skipped", "others"):
            assert same(getattr(dataset, key), getattr(raw, key)), key


def test_a_run_on_a_prepared_folder_equals_one_on_the_photographs(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["prepare", "--data", str(photos), "--out", str(tmp_path / "ready")]) == 0
    output = capsys.readouterr().out
    assert "12 images to train on, 3 to validate on, 3 classes, 1 skipped, 3 MB" in output
    assert "cut.png: not an image in a known format" in output
    assert "files that are not pictures: 1 .txt" in output
    for name, data in (("ours", tmp_path / "ready"), ("theirs", photos)):
        assert main(["train", "--data", str(data), "--out", str(tmp_path / name), *TRAIN]) == 0
    ours, theirs = (checkpoint.load(tmp_path / name / "last.pt") for name in ("ours", "theirs"))
    assert same(ours.model, theirs.model)
    assert same([ours.held_out, ours.trained_on], [theirs.held_out, theirs.trained_on])
    assert {**ours.provenance, "seconds": 0} == {**theirs.provenance, "seconds": 0}
    capsys.readouterr()
    for data in (tmp_path / "ready", photos):
        assert main(["evaluate", str(tmp_path / "ours"), "--data", str(data), "--device", "cpu"]) == 0
        assert "3 images, 1 crop(s) each, " in capsys.readouterr().out


def test_labels_of_a_prepared_folder_follow_the_class_names(photos: Path, tmp_path: Path) -> None:
    config = Config()
    prepare(photos, tmp_path / "ready", config)
    trained = ("rose", "iris", "tulip", "daisy")
    state = Checkpoint(config, trained, [0.0], [1.0], {}, trained_on=torch.tensor([5]))
    dataset = load_dataset(tmp_path / "ready", config)
    state.held_out = {"names": dataset.val.names, "digests": dataset.val.digests}
    split = load_held_out(tmp_path / "ready", record_of(state)).split
    assert [trained[label] for label in split.labels] == ["daisy", "iris", "rose"]
    state.classes = ("iris", "daisy")
    with pytest.raises(DataError, match=r"class 'rose' in .*ready is not among those trained: iris, daisy"):
        load_held_out(tmp_path / "ready", record_of(state))


def test_damaged_and_other_prepared_folders_are_refused(photos: Path, tmp_path: Path) -> None:
    ready = tmp_path / "ready"
    prepare(photos, ready, Config(image_size=112))
    with pytest.raises(DataError, match=r"at 128 pixels; this needs .* at 256.*--image-size"):
        load_dataset(ready, Config())
    with pytest.raises(DataError, match="is not empty; choose another folder"):
        prepare(photos, ready, Config(image_size=112))
    pixels = ready / "pixels"
    pixels.write_bytes(pixels.read_bytes()[:-1])
    with pytest.raises(DataError, match=r"pixels has \d+ bytes, not \d+; prepare it again"):
        load_dataset(ready, Config(image_size=112))
    (ready / "pictures.npz").write_bytes(b"PK and no more")
    with pytest.raises(DataError, match=r"pictures.npz is damaged: .*; prepare it again"):
        load_dataset(ready, Config(image_size=112))
    (ready / "prepared.json").write_text('{"recipe": "of an older version"}')
    with pytest.raises(DataError, match=r"was prepared by another version; prepare the photographs again"):
        load_dataset(ready, Config(image_size=112))
    (ready / "prepared.json").write_text("{")
    with pytest.raises(DataError, match=r"prepared.json is damaged: .*; prepare the photographs again"):
        load_dataset(ready, Config(image_size=112))


def test_an_interrupted_prepare_can_be_repeated(photos: Path, tmp_path: Path) -> None:
    config = Config()
    whole = prepare(photos, tmp_path / "ready", config)
    (tmp_path / "ready" / "prepared.json").unlink()  # written last
    (tmp_path / "ready" / "pixels").write_bytes(b"half a picture")
    again = prepare(photos, tmp_path / "ready", config)
    assert torch.equal(again.val.pixels, whole.val.pixels)
    assert torch.equal(again.val.rows, whole.val.rows)
