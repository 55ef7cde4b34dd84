"""Folders to splits: which files, which labels, what is skipped, what is refused and by which name."""

import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch

from contract.picture import decode
from contract.preprocess import square
from contract.recipe import DEFAULT_RECIPE
from tests.pictures import draw_classes, encode, orientation_tag, scene, stored
from training.data import (
    DataError,
    channel_statistics,
    class_names,
    find_samples,
    held_out_samples,
    load_split,
    validation_samples,
)

COLOURS = {"iris": (60, 40, 200), "daisy": (230, 230, 210), "rose": (200, 30, 50)}
CLASSES = ("daisy", "iris", "rose")


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """One tree: 3 classes of 10 pictures."""
    return draw_classes(tmp_path / "tree", COLOURS, 10, size=16)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """train/ with 5 pictures of each class and val/ with 2."""
    draw_classes(tmp_path / "data" / "train", COLOURS, 5, size=16)
    draw_classes(tmp_path / "data" / "val", COLOURS, 2, size=16, first=5)
    return tmp_path / "data"


def test_train_and_val_folders_are_taken_as_they_are(folder: Path) -> None:
    classes, train, val = find_samples(folder, 0.2, seed=0)
    assert classes == CLASSES
    assert train == [
        (folder / "train" / name / f"{i:03d}.png", CLASSES.index(name))
        for name in CLASSES
        for i in range(5)
    ]
    assert val == [
        (folder / "val" / name / f"{i:03d}.png", CLASSES.index(name)) for name in CLASSES for i in (5, 6)
    ]


def test_one_tree_is_split_by_class_without_overlap(tree: Path) -> None:
    classes, train, val = find_samples(tree, 0.3, seed=1)
    assert classes == CLASSES
    assert Counter(label for _, label in val) == {0: 3, 1: 3, 2: 3}
    assert Counter(label for _, label in train) == {0: 7, 1: 7, 2: 7}
    assert not set(train) & set(val)
    assert {path for path, _ in train + val} == set(tree.rglob("*.png"))
    assert all(path.parent.name == classes[label] for path, label in train + val)


def test_the_split_is_the_seed_s_and_no_accident_of_the_run(tree: Path) -> None:
    again = find_samples(tree, 0.3, seed=1)
    assert find_samples(tree, 0.3, seed=1) == again
    assert find_samples(tree, 0.3, seed=2)[2] != again[2]


def test_a_further_class_leaves_the_split_of_the_others(tree: Path) -> None:
    before = {path for path, _ in find_samples(tree, 0.3, seed=1)[2]}
    draw_classes(tree, {"aster": (90, 90, 90)}, 10, size=16)
    after = {path for path, _ in find_samples(tree, 0.3, seed=1)[2]}
    assert {path for path in after if path.parent.name != "aster"} == before


@pytest.mark.parametrize("fraction", [0.0, 0.01, 0.9])
def test_every_class_has_a_picture_on_either_side(tree: Path, fraction: float) -> None:
    _classes, train, val = find_samples(tree, fraction, seed=0)
    assert {label for _, label in train} == {label for _, label in val} == {0, 1, 2}


def test_a_class_too_small_to_split_is_named(tree: Path) -> None:
    for path in sorted((tree / "iris").iterdir())[1:]:
        path.unlink()
    with pytest.raises(DataError, match="'iris' has 1 images"):
        find_samples(tree, 0.2, seed=0)


def test_hidden_files_and_folders_and_loose_files_are_ignored(folder: Path) -> None:
    expected = find_samples(folder, 0.2, seed=0)
    (folder / "train" / ".ipynb_checkpoints").mkdir()
    (folder / "train" / ".ipynb_checkpoints" / "x.png").write_bytes(b"x")
    (folder / "train" / "iris" / ".DS_Store").write_bytes(b"x")
    (folder / "val" / "rose" / ".thumbnails").mkdir()
    (folder / "val" / "rose" / ".thumbnails" / "x.png").write_bytes(b"x")
    (folder / "train" / "notes.txt").write_text("not a class")
    assert find_samples(folder, 0.2, seed=0) == expected


def test_a_hidden_folder_above_the_data_does_not_matter(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder, tmp_path / ".cache" / "data")
    assert len(find_samples(tmp_path / ".cache" / "data", 0.2, seed=0)[1]) == 15


def test_pictures_in_folders_below_a_class_belong_to_it(folder: Path) -> None:
    (folder / "train" / "rose" / "garden" / "2019").mkdir(parents=True)
    (folder / "train" / "rose" / "garden" / "2019" / "a.png").write_bytes(encode(scene(8, 8), "PNG"))
    _classes, train, _val = find_samples(folder, 0.2, seed=0)
    assert (folder / "train" / "rose" / "garden" / "2019" / "a.png", 2) in train


def test_an_empty_class_is_named(folder: Path) -> None:
    (folder / "train" / "tulip").mkdir()
    with pytest.raises(DataError, match=r"'tulip' in .*train is empty"):
        find_samples(folder, 0.2, seed=0)


def test_a_class_that_val_has_and_train_lacks_is_named(folder: Path) -> None:
    draw_classes(folder / "val", {"tulip": (9, 9, 9)}, 1, size=16)
    with pytest.raises(DataError, match=r"'tulip' in .*val is not among those trained: daisy, iris, rose"):
        find_samples(folder, 0.2, seed=0)


@pytest.mark.parametrize("missing", ["daisy", "rose"])
def test_a_class_that_val_lacks_is_fine_and_moves_no_label(folder: Path, missing: str) -> None:
    shutil.rmtree(folder / "val" / missing)
    classes, _train, val = find_samples(folder, 0.2, seed=0)
    assert classes == CLASSES
    assert {path.parent.name: label for path, label in val} == {
        name: CLASSES.index(name) for name in CLASSES if name != missing
    }


def test_missing_folders_are_named(tmp_path: Path, folder: Path) -> None:
    with pytest.raises(DataError, match="nowhere is no folder"):
        find_samples(tmp_path / "nowhere", 0.2, seed=0)
    shutil.rmtree(folder / "val")
    with pytest.raises(DataError, match=r"train/ but no val/"):
        find_samples(folder, 0.2, seed=0)


def test_a_single_class_is_refused(tmp_path: Path) -> None:
    draw_classes(tmp_path, {"rose": (1, 2, 3)}, 2, size=16)
    with pytest.raises(DataError, match="1 class folders"):
        class_names(tmp_path)


def test_labels_to_evaluate_follow_the_trained_order_not_the_folder_s(folder: Path) -> None:
    trained = ("rose", "iris", "tulip", "daisy")
    samples = validation_samples(folder, trained)
    assert all(trained[label] == path.parent.name for path, label in samples)
    assert len(samples) == 6
    assert validation_samples(folder / "val", trained) == samples


def test_what_a_run_set_aside_of_one_tree_is_found_again(tmp_path: Path) -> None:
    data = draw_classes(tmp_path / "photos", {"rose": (200, 1, 2), "iris": (9, 9, 200)}, 10, size=16)
    run = {"data": "photos", "split": {"val_fraction": 0.3, "seed": 4}}
    classes, _train, val = find_samples(data, 0.3, seed=4)
    assert held_out_samples(data, classes, run) == val
    assert len(val) == 6
    others = data.rename(tmp_path / "others")
    assert len(held_out_samples(others, classes, run)) == 20


def test_one_class_is_enough_to_validate_on(tmp_path: Path) -> None:
    draw_classes(tmp_path / "val", {"rose": (200, 1, 2)}, 2, size=16)
    assert [label for _path, label in validation_samples(tmp_path, ("iris", "rose"))] == [1, 1]


def test_a_split_holds_the_recipe_s_pixels_upright_and_in_order(tmp_path: Path) -> None:
    files = {"a": stored(scene(90, 60), 6), "b": scene(50, 70, seed=1)}
    samples = []
    for index, (name, image) in enumerate(files.items()):
        path = tmp_path / f"{name}.jpg"
        path.write_bytes(encode(image, "JPEG", exif=orientation_tag(6 if name == "a" else 1)))
        samples.append((path, index))
    split = load_split(samples, DEFAULT_RECIPE, "test")
    assert split.labels.tolist() == [0, 1]
    assert split.squares.shape == (2, 256, 256, 3)
    assert split.skipped == ()
    for (path, _label), pixels in zip(samples, split.squares, strict=True):
        expected = square(decode(path.read_bytes(), DEFAULT_RECIPE, 10**6), DEFAULT_RECIPE)
        assert np.array_equal(pixels.numpy(), expected)


def test_unreadable_files_are_left_out_and_listed_by_name(folder: Path) -> None:
    bad = {
        "cut.png": (folder / "train" / "iris" / "000.png").read_bytes()[:60],
        "empty.jpg": b"",
        "notes.txt": b"bought in Kew",
    }
    for name, data in bad.items():
        (folder / "train" / "iris" / name).write_bytes(data)
    _classes, train, _val = find_samples(folder, 0.2, seed=0)
    assert len(train) == 18
    split = load_split(train, DEFAULT_RECIPE, "train")
    assert len(split) == len(split.squares) == 15
    assert split.labels.tolist() == [0] * 5 + [1] * 5 + [2] * 5
    assert [line.split(":")[0] for line in split.skipped] == [
        str(folder / "train" / "iris" / name) for name in bad
    ]
    assert "corrupt or truncated" in split.skipped[0]
    # The others stay with their labels: every square is its class's colour.
    for pixels, label in zip(split.squares, split.labels, strict=True):
        colour = torch.tensor(COLOURS[CLASSES[int(label)]])
        assert (pixels.float().mean((0, 1)) - colour).abs().max() < 40


def test_a_class_whose_every_picture_is_unreadable_is_named(folder: Path) -> None:
    for path in (folder / "train" / "iris").iterdir():
        path.write_bytes(b"no picture")
    _classes, train, _val = find_samples(folder, 0.2, seed=0)
    with pytest.raises(DataError, match=r"no image in .*train/iris can be read"):
        load_split(train, DEFAULT_RECIPE, "train")


def test_channel_statistics_are_those_of_all_pixels_at_once() -> None:
    draw = torch.Generator().manual_seed(0)
    squares = torch.randint(0, 256, (130, 8, 8, 3), dtype=torch.uint8, generator=draw)
    squares[..., 1] = squares[..., 0] // 2  # so that the channels go together
    mean, covariance = channel_statistics(squares)
    values = squares.reshape(-1, 3).double()
    torch.testing.assert_close(mean, values.mean(0))
    torch.testing.assert_close(covariance, torch.cov(values.T, correction=0), rtol=1e-4, atol=1e-2)
