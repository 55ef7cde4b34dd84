"""Figure 1 on pictures of two colours: both activations learn, and a second call resumes."""

import json
import shutil
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from tests.support.drawing.pictures import draw_classes
from training.__main__ import main
from training.report.figure1 import RATES, best_of, epochs_to_target


def test_the_curves_the_picture_and_the_ratio(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = tmp_path / "data"
    draw_classes(data / "train", {"red": (190, 60, 50), "teal": (40, 140, 150)}, 20)
    packed = shutil.make_archive(str(tmp_path / "packed"), "zip", data)
    for source in (data, packed):
        out = tmp_path / f"out-{Path(source).name}"
        assert main(["figure1", "--data", str(source), "--out", str(out), "--epochs", "20"]) == 0
        assert "tanh took" in capsys.readouterr().out
        curves = json.loads((out / "figure1.json").read_text())["curves"]
        assert all(set(rates) == set(map(str, RATES)) for rates in curves.values())
        assert ET.parse(out / "figure1.svg").getroot().tag.endswith("svg")
    before = (out / "figure1.json").read_text()
    assert main(["figure1", "--data", str(packed), "--out", str(out), "--epochs", "20"]) == 0
    assert "learning rate" not in capsys.readouterr().out, "nothing is trained again"
    assert (out / "figure1.json").read_text() == before
    assert main(["figure1", "--data", str(packed), "--out", str(out), "--seed", "1"]) == 1
    assert "use another --out" in capsys.readouterr().err


def test_best_of_takes_the_rate_that_first_reaches_the_target() -> None:
    rates = {"0.1": [0.9, 0.9], "0.03": [0.5, 0.3, 0.2], "0.01": [0.5, 0.25]}
    assert best_of(rates) == "0.01"
    assert epochs_to_target(rates["0.01"]) == 1.0
    assert epochs_to_target(rates["0.1"]) is None


def test_a_folder_without_classes_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["figure1", "--data", str(tmp_path), "--out", str(tmp_path / "out")]) == 1
    assert "has no train/" in capsys.readouterr().err
