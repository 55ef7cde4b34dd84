"""The table of classes and the warnings at the start of a run."""

import shutil
from pathlib import Path

from tests.support.drawing.pictures import draw_classes
from training.cli.overview import overview, warnings
from training.config import Config
from training.data.prepared import load_dataset


def test_an_overview_counts_and_warns(tmp_path: Path) -> None:
    data = draw_classes(tmp_path / "train", {f"kind{n:02d}": (n, n, n) for n in range(31)}, 1, size=16)
    draw_classes(data, {"many": (9, 9, 9), "Many": (8, 8, 8)}, 20, size=16)
    shutil.copytree(data / "many", tmp_path / "val" / "many")
    shutil.copy(data / "many" / "000.png", data / "kind00" / "copy.png")
    for number in range(12):
        (data / "many" / f"bad{number}.png").write_bytes(b"no picture")
    dataset = load_dataset(tmp_path, Config(image_size=64))
    text = overview(dataset)
    lines = text.splitlines()
    assert lines[0].split() == ["class", "train", "validation"]
    assert lines[1].split() == ["Many", "20", "0"]
    assert lines[31] == "and 3 more classes, 22 and 20"
    assert [line.startswith("skipped ") for line in lines[32:43]] == [True] * 11
    assert lines[42] == "skipped 2 more that cannot be read"
    assert lines[43] == "72 images to train on, 20 to validate on, 33 classes, 12 skipped"
    output = list(warnings(dataset))
    for number, words in enumerate(
        (
            "classes whose names differ only in case: Many, many",
            "no validation photographs of Many, kind00, kind01, kind02, kind03, kind04, kind05, kind06, "
            "kind07, kind08 and 22 more",
            "fewer than 10 pictures of kind00 (2), kind01 (1)",
            "20 pictures to train on of Many and 1 of kind01",
            "20 of 20 validation photographs are copies of training photographs",
            "1 pictures lie in more than one class each",
            "12 of 104 pictures cannot be read, such as ",
        )
    ):
        assert words in output[number]
    assert len(output) == 7
