"""Photographs for runs that hold some of them out."""

from pathlib import Path

import pytest

from tests.support.drawing.pictures import draw_classes
from tests.support.held_out import COLOURS


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Make one tree: 2 classes of 10 pictures, of which 3 each are held out."""
    return draw_classes(tmp_path / "photos", COLOURS, 10, size=16)
