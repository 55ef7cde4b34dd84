"""Test that what counts as a plain baseline JPEG is decoded by libjpeg without an error."""

import random

import pytest

from contract.errors import ImageError
from contract.formats.jpeg import baseline_end
from contract.picture import decode_pixels, read_header
from contract.recipe import TORCHVISION_RECIPE
from tests.support.serving.images import encoded, noise

SMALL = [
    encoded(noise(0, 90, 70)),
    encoded(noise(1, 90, 70), subsampling=1, quality=30, restart_marker_blocks=4),
    encoded(noise(2, 90, 70), subsampling=0, quality=95, restart_marker_rows=1),
]
JPEG = SMALL[0]


@pytest.mark.parametrize("file", SMALL)
def test_end_is_after_the_marker_eoi(file: bytes) -> None:
    assert baseline_end(file) == len(file)
    assert baseline_end(file + b"\xff\xd8 and more") == len(file)


@pytest.mark.parametrize(
    "file",
    [
        b"",
        JPEG[:2],
        JPEG[:300],
        JPEG[:-1],
        JPEG[:-2] + b"\xff\xc4",  # tables, and not the end
        encoded(noise(1), progressive=True),
        encoded(noise(1).convert("L")),
        encoded(noise(1).convert("CMYK")),
        encoded(noise(1), keep_rgb=True),
        encoded(noise(1), "PNG"),
        JPEG[:2] + b"\xff\xfe\0\1" + JPEG[2:],  # a segment shorter than its length
        JPEG[:2] + b"junk" + JPEG[2:],
        JPEG[:2] + b"\xff\xfe\0\2" * 6000 + JPEG[2:],
    ],
    ids=range(13),
)
def test_other_files_are_none(file: bytes) -> None:
    assert baseline_end(file) is None


def mutated(file: bytes, draw: random.Random) -> bytes:
    """Change a file in a few places, in half of them before its pixels."""
    data = bytearray(file)
    for _change in range(draw.choice([1, 1, 1, 2, 5])):
        at = draw.randrange(len(data) if draw.random() < 0.5 else min(len(data), 640))
        data[at : at + draw.choice([0, 1, 1, 1, 9])] = draw.randbytes(draw.choice([0, 1, 1, 1, 3]))
    return bytes(data)


def test_damaged_file_that_counts_as_one_is_decoded_by_libjpeg() -> None:
    draw, accepted = random.Random(24), 0
    for _file in range(6000):
        file = mutated(draw.choice(SMALL), draw)
        if baseline_end(file) is None:
            continue
        try:
            header = read_header(file, TORCHVISION_RECIPE, 10_000_000)
        except ImageError:  # of what comes before the pixels; the GPU does not get these either
            continue
        decode_pixels(header)
        accepted += 1
    assert accepted > 500
