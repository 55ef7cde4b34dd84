"""Fixtures: small photographs to train on, fewer parity images, signal handlers restored."""

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.drawing.pictures import draw_classes
from tests.support.runs import COLOURS
from training.export import parity


@pytest.fixture(scope="session")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Draw train/ with 4 pictures of each of 3 colours, and val/ with 2."""
    root = tmp_path_factory.mktemp("photographs")
    draw_classes(root / "train", COLOURS, 4)
    draw_classes(root / "val", COLOURS, 2, first=4)
    return root


@pytest.fixture(scope="session", autouse=True)
def _parity_of_few_images() -> Iterator[None]:
    """Compare files with torch on 6 images instead of 257, which take seconds; test_export uses all."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(parity, "BATCHES", (1, 6))
        yield


@pytest.fixture(autouse=True)
def _signals_as_they_were() -> Iterator[None]:
    """Restore the handlers of SIGINT and SIGTERM, which the command `train` replaces."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)
