"""Small data to train on."""

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.pictures import draw_classes
from tests.support.runs import COLOURS
from training.export import parity


@pytest.fixture(scope="session")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """train/ with 4 pictures of each of 3 colours, val/ with 2."""
    root = tmp_path_factory.mktemp("photographs")
    draw_classes(root / "train", COLOURS, 4)
    draw_classes(root / "val", COLOURS, 2, first=4)
    return root


@pytest.fixture(scope="session", autouse=True)
def _parity_of_few_images() -> Iterator[None]:
    """Compare a file with torch on 6 images, not 257, which takes seconds; test_export has all of them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(parity, "BATCHES", (1, 6))
        yield


@pytest.fixture(autouse=True)
def _signals_as_they_were() -> Iterator[None]:
    """train() takes SIGINT and SIGTERM for itself, as the command that it is."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)
