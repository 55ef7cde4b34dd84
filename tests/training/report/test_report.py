"""The report of a run loads nothing, shows every section, and counts like `evaluate`."""

import io
import re
from base64 import b64decode
from html.parser import HTMLParser
from pathlib import Path

import pytest
from PIL import Image

from contract.interval import with_interval
from tests.support.drawing.pictures import draw_classes
from tests.support.runs import train
from training.__main__ import main
from training.config import Config
from training.model import AlexNet
from training.report.report import LEGIBLE, report
from training.run import checkpoint
from training.run.checkpoint import Checkpoint
from training.run.log import EpochRow, Log


class Page(HTMLParser):
    """Collect the text, and every address that a browser would load."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.loaded: list[str] = []
        self.words: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert tag != "script"
        self.loaded += [value or "" for name, value in attrs if name in {"src", "href"}]

    def handle_data(self, data: str) -> None:
        self.words.append(data)


@pytest.fixture
def run(photographs: Path, tmp_path: Path) -> Path:
    """Train on three colours for one epoch: most answers are wrong."""
    assert train(photographs, tmp_path / "a <run>", "--epochs", "2") == 0
    return tmp_path / "a <run>"


def test_the_page_loads_nothing_and_shows_everything(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", str(run)]) == 0
    assert capsys.readouterr().out.endswith("report.html\n")
    text = (run / "report.html").read_text()
    page = Page(text)
    words = " ".join(page.words)
    assert all(address.startswith("data:image/") for address in page.loaded)
    assert not re.search(r"url\(|@import", text)
    state = checkpoint.load(run / "last.pt")
    assert f"After epoch {state.epoch} of 2" in words
    assert with_interval(state.metrics["top1"], 6) in words
    assert "a <run>: AlexNet on photographs" in words
    assert words.count("taken for") == 1 + (len(page.loaded) - 1), "a caption for every mistake"
    wrong = round(6 * (1 - state.metrics["top1"]))
    assert len(page.loaded) == 1 + wrong > 1
    for address in page.loaded:
        assert Image.open(io.BytesIO(b64decode(address.split(",")[1]))).size > (20, 20)
    assert text.count("<polyline") == 4


def test_report_asks_for_data_if_the_photographs_have_moved(
    run: Path, photographs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    state = checkpoint.load(run / "last.pt")
    assert state.data == str(photographs)
    for path, message in ((str(tmp_path / "gone"), "gone, which is gone"), ("", "add --data DIR")):
        state.data = path
        checkpoint.save(state, run / "last.pt")
        assert main(["report", str(run)]) == 1
        assert message in capsys.readouterr().err
    assert main(["report", str(run), "--data", str(photographs)]) == 0


def test_report_with_many_classes_and_a_nan_loss(tmp_path: Path) -> None:
    """A thousand classes would be a table of a million cells."""
    names = tuple(f"class{index:03d}" for index in range(LEGIBLE + 1))
    data = draw_classes(tmp_path / "data", dict.fromkeys(names, (90, 90, 90)), 1, size=16)
    config = Config(width=0.02)
    model = AlexNet(len(names), config.width)
    state = Checkpoint(config, names, [0.0] * 3, [1.0] * 3, model.state_dict(), data=str(data), epoch=2)
    (tmp_path / "run").mkdir()
    checkpoint.save(state, tmp_path / "run" / "best.pt")
    with Log(tmp_path / "run", 0, 0) as log:
        for epoch, loss in ((1, 2.5), (2, float("nan"))):
            log.epoch(epoch, EpochRow(epoch, loss, 0.1, 0.2, 0.01, 100.0, 0.0, 2.0))
    path, _notes = report(tmp_path / "run")
    text = path.read_text()
    assert 'class="confusion"' not in text
    assert "confusion of the classes" in text
    # All pictures are the same, and so are the answers.
    assert text.split("confusion of the classes")[1].count(": 1 of 1") == 30
    assert "nan" not in text.split("<h2>What the first layer")[0]
