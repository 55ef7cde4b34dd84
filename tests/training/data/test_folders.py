"""Finding classes, pictures, train/ and val/ in folders, and refusing other folders."""

import os
import shutil
from pathlib import Path

import pytest

from tests.support.drawing.pictures import draw_classes, encode, scene
from training.data.folders import by_suffix, class_names, find_measured, find_trees, printable, scan_known
from training.errors import DataError

COLOURS = {"iris": (60, 40, 200), "daisy": (230, 230, 210), "rose": (200, 30, 50)}
CLASSES = ("daisy", "iris", "rose")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Make train/ with 5 pictures of each class and val/ with 2."""
    draw_classes(tmp_path / "data" / "train", COLOURS, 5, size=16)
    draw_classes(tmp_path / "data" / "val", COLOURS, 2, size=16, first=5)
    return tmp_path / "data"


def names(data: Path) -> list[list[str]]:
    """Return the names of the pictures of each tree."""
    return [[sample.name for sample in tree.samples] for tree in find_trees(data)[1]]


def test_train_and_val_folders_are_not_split(folder: Path) -> None:
    parts, (train, val) = find_trees(folder)
    assert (parts.train, parts.val, parts.warnings) == (folder / "train", folder / "val", ())
    assert train.classes == val.classes == CLASSES
    assert [(s.path, s.label, s.name) for s in train.samples] == [
        (folder / "train" / name / f"{i:03d}.png", CLASSES.index(name), f"{name}/{i:03d}.png")
        for name in CLASSES
        for i in range(5)
    ]
    assert [sample.name for sample in val.samples] == [f"{n}/{i:03d}.png" for n in CLASSES for i in (5, 6)]


def test_hidden_files_and_folders_and_loose_files_are_ignored(folder: Path, tmp_path: Path) -> None:
    expected = names(folder)
    for place in (
        "train/.ipynb_checkpoints",
        "val/rose/.thumbnails",
        "train/__MACOSX",
        "train/iris/@eaDir",
    ):
        (folder / place).mkdir()
        (folder / place / "x.png").write_bytes(b"x")
    (folder / "train" / "iris" / ".DS_Store").write_bytes(b"x")
    (folder / "train" / "notes.txt").write_text("not a class")
    assert names(folder) == expected
    assert not any(tree.others for tree in find_trees(folder)[1])
    shutil.copytree(folder, tmp_path / ".cache" / "data")
    assert names(tmp_path / ".cache" / "data") == expected


def test_other_files_are_recognised_by_name_and_signature(folder: Path) -> None:
    iris = folder / "train" / "iris"
    for name, content in {
        "000.png.json": b"{}",
        "Thumbs.db": b"\xd0\xcf\x11\xe0",
        "LICENSE": b"free",
        "a.JSON": b"",
        "broken.JPG": b"no picture",
        "unnamed": encode(scene(8, 8), "PNG"),
    }.items():
        (iris / name).write_bytes(content)
    (iris / "deep" / "er").mkdir(parents=True)
    (iris / "deep" / "er" / "a.png").write_bytes(encode(scene(8, 8), "PNG"))
    (iris / "gone.png").symlink_to(iris / "nowhere.png")
    os.mkfifo(iris / "pipe.png")  # opening it would block
    tree = find_trees(folder)[1][0]
    pictures = {sample.name for sample in tree.samples if sample.label == 1}
    new = {"iris/broken.JPG", "iris/unnamed", "iris/deep/er/a.png", "iris/gone.png"}
    assert pictures == new | {f"iris/{i:03d}.png" for i in range(5)}
    assert by_suffix(sample.name for sample in tree.others) == "2 .json, 1 without a suffix, 1 .db"


def test_train_and_val_with_pictures_in_them_are_classes(tmp_path: Path) -> None:
    draw_classes(tmp_path, {"train": (1, 2, 3), "val": (200, 1, 1)}, 3, size=16)
    parts, (tree,) = find_trees(tmp_path)
    assert (parts.val, tree.classes, len(tree.samples)) == (None, ("train", "val"), 6)
    assert find_measured(tmp_path) == tmp_path


@pytest.mark.parametrize(
    ("renamed", "message"),
    [
        ({"train": "Train", "val": "Val"}, "rename Train to train and Val to val"),
        ({"val": "valid"}, "has train/ and valid/, both with class folders: rename valid to val"),
        ({"val": "test"}, "rename test to val, or pass one of them to split it"),
        (
            {"train": "training_set", "val": "VALIDATION"},
            "rename training_set to train and VALIDATION to val",
        ),
        ({"train": "val", "val": "test"}, "val/ but no train/ beside it"),
    ],
)
def test_parts_by_other_names_are_refused_with_the_remedy(
    folder: Path, renamed: dict[str, str], message: str
) -> None:
    for old in reversed(renamed):
        (folder / old).rename(folder / renamed[old])
    with pytest.raises(DataError, match=message):
        find_trees(folder)


def test_train_with_class_folders_and_pictures_is_not_a_class(folder: Path) -> None:
    (folder / "train" / "montage.png").write_bytes(encode(scene(8, 8), "PNG"))
    (folder / "test").mkdir()
    parts, trees = find_trees(folder)
    assert (parts.val, len(trees)) == (folder / "val", 2)
    assert parts.warnings == ("only train/ and val/ are used; not test/",)
    assert find_measured(folder) == folder / "val"


def test_folders_without_classes_are_refused_with_the_remedy(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="nowhere is not a folder"):
        find_trees(tmp_path / "nowhere")
    with pytest.raises(DataError, match=r"has 1 class folders.* data/ has 2 folders: did you mean"):
        class_names(tmp_path)
    with pytest.raises(DataError, match=r"has 0 class folders.* 5 pictures are directly in it"):
        class_names(folder / "train" / "rose")
    shutil.rmtree(folder / "val")
    with pytest.raises(DataError, match=r"train/ but no val/; add one, or pass train/ to split it"):
        find_trees(folder)


def test_all_classes_of_val_missing_in_train_are_named(folder: Path) -> None:
    draw_classes(folder / "val", {"tulip": (9, 9, 9), "aster": (8, 8, 8)}, 1, size=16)
    message = r"classes 'aster', 'tulip' in .*val are not among those trained: daisy, iris, rose"
    with pytest.raises(DataError, match=message):
        find_trees(folder)


def test_labels_follow_the_order_of_the_trained_classes(folder: Path) -> None:
    trained = ("rose", "iris", "tulip", "cafe\u0301", "daisy")
    (folder / "val" / "daisy").rename(
        folder / "val" / "caf\u00e9"
    )  # the other Unicode form, as on another system
    samples = scan_known(folder / "val", trained).samples
    assert [sample.label for sample in samples] == [3, 3, 1, 1, 0, 0]


def test_names_that_are_not_utf_8_are_escaped_or_refused_as_classes(tmp_path: Path) -> None:
    draw_classes(tmp_path, {"a": (1, 2, 3), "b": (200, 1, 1)}, 2, size=16)
    (tmp_path / "a" / "000.png").rename(tmp_path / "a" / os.fsdecode(b"caf\xe9\n.png"))
    _parts, (tree,) = find_trees(tmp_path)
    assert [sample.name for sample in tree.samples][:2] == ["a/001.png", "a/caf\\xe9\\n.png"]
    assert printable("e\u0301") == "\u00e9"
    (tmp_path / "a").rename(tmp_path / os.fsdecode(b"caf\xe9"))
    (tmp_path / "b").rename(tmp_path / "x\ny")
    with pytest.raises(DataError, match=r"contain control characters: caf\\xe9, x\\ny; rename them"):
        find_trees(tmp_path)


def test_class_folders_that_contain_parts_are_warned_about(tmp_path: Path) -> None:
    for part in ("train", "Val"):
        draw_classes(tmp_path / "iris" / part, {"": (1, 2, 3)}, 2, size=16)
        draw_classes(tmp_path, {"rose": (200, 1, 1)}, 2, size=16)
    parts, (tree,) = find_trees(tmp_path)
    assert len(tree.samples) == 6
    assert parts.warnings == ("iris: class folders that contain parts of a data set, which are merged",)
