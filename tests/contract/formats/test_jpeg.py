"""Test that the scans of a JPEG are counted exactly up to its end, not in data after it."""

import io
import random
import struct
import zipfile
from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image

from contract.formats import jpeg
from contract.picture import InvalidImage, decode, decode_pixels, read_header
from contract.recipe import DEFAULT_RECIPE
from tests.corpus.files import progressive, segment
from tests.support.drawing.pictures import Array, encode, orientation_tag
from tests.support.drawing.samples import SCENE, samples

BASELINE, PROGRESSIVE = encode(SCENE, "JPEG"), encode(SCENE, "JPEG", progressive=True)
RESTARTS = encode(SCENE, "JPEG", progressive=True, restart_marker_rows=1)
FAKE_END = b"\xff\xd9"
SCAN = b"\xff\xda"


def film() -> bytes:
    return b"\0\0\0\x18ftypmp42\0\0\0\0mp42isom" + struct.pack(">I", 4 << 20) + b"mdat" + noise()


def noise() -> bytes:
    return random.Random(1).randbytes(4 << 20)


def archive() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        file.writestr("scans", SCAN * 5000)
    return buffer.getvalue()


BEHIND: dict[str, Callable[[], bytes]] = {
    "nothing": lambda: b"",
    "a film": film,
    "noise": noise,
    "an archive": archive,
    "another picture": lambda: PROGRESSIVE,
    "scans": lambda: SCAN * 5000,
    "a bomb": lambda: progressive(640, 480, 5000),
    "segments": lambda: segment(0xFE, b"c") * 6000,
}


def pixels(data: bytes) -> Array:
    return np.asarray(decode(data, DEFAULT_RECIPE, 10**8).image)


def count(data: bytes) -> int:
    """Count the scans exactly, as is done where the fast count is over the limit."""
    return jpeg._count_by_markers(data)


def places_of_scans(data: bytes) -> list[int]:
    return [at for marker, at in jpeg._markers(data) if marker == 0xDA]


@pytest.mark.parametrize("behind", BEHIND)
@pytest.mark.parametrize(
    "still", [BASELINE, PROGRESSIVE, RESTARTS], ids=["baseline", "progressive", "restarts"]
)
def test_data_after_the_picture_changes_nothing(still: bytes, behind: str) -> None:
    data = still + BEHIND[behind]()
    assert np.array_equal(pixels(data), pixels(still))
    assert read_header(data, DEFAULT_RECIPE, 10**8).bytes == read_header(still, DEFAULT_RECIPE, 10**8).bytes


def test_video_after_a_12_megapixel_photograph_is_ignored() -> None:
    still = encode(SCENE.resize((4000, 3000)), "JPEG", quality=40)
    data = still + film() * 3
    assert data.count(SCAN) > 20
    assert np.array_equal(pixels(data), pixels(still))


FAKES = {
    "in a comment": segment(0xFE, FAKE_END * 9 + SCAN * 5000),
    "in a profile": segment(0xE2, b"ICC_PROFILE\0\1\2" + FAKE_END + SCAN * 5000),
    "in a thumbnail": segment(0xE1, orientation_tag(1) + BASELINE[:9000] + FAKE_END),
    "behind fill bytes": b"\xff" * 9 + segment(0xFE, FAKE_END),
    "in tables": segment(0xDB, b"\0" + b"\xff\xd9" * 32),
    "by a number of lines": segment(0xDC, b"\xff\xd9"),
}


@pytest.mark.parametrize("fake", FAKES)
@pytest.mark.parametrize("still", [PROGRESSIVE, RESTARTS], ids=["plain", "restarts"])
def test_end_marker_within_a_segment_does_not_count(still: bytes, fake: str) -> None:
    """The fake end is put before each scan; all scans are still counted."""
    scans = places_of_scans(still)
    assert count(still) == len(scans) == 10
    for at in scans if fake != "in tables" else scans[1:]:
        data = still[:at] + FAKES[fake] + still[at:]
        assert count(data) == 10
        assert np.array_equal(pixels(data), pixels(still))


@pytest.mark.parametrize("end", [FAKE_END, b"\xff" * 5 + b"\xd9", b"\0\1\2\xff\0" + FAKE_END])
def test_end_marker_between_scans_ends_the_count(end: bytes) -> None:
    """The decoder shows what came before the end; later scans are neither read nor counted."""
    for index, at in enumerate(places_of_scans(PROGRESSIVE)[1:], 1):
        data = PROGRESSIVE[:at] + end + PROGRESSIVE[at:] + SCAN * 5000
        assert count(data) == index
        assert np.array_equal(pixels(data), pixels(PROGRESSIVE[:at] + FAKE_END))


@pytest.mark.parametrize("fake", FAKES)
def test_fake_end_marker_does_not_hide_scans(fake: str) -> None:
    bomb = progressive(640, 480, 5000)
    first, second = places_of_scans(bomb)[:2]
    for at in (first, second):
        data = bomb[:at] + FAKES[fake] + bomb[at:]
        with pytest.raises(InvalidImage, match="5001 scans are too many for 307200 pixels"):
            read_header(data, DEFAULT_RECIPE, 10**8)


def test_after_a_broken_marker_every_scan_pattern_counts() -> None:
    """After a marker without a known length, or too many segments, every pattern counts as a scan."""
    at = places_of_scans(PROGRESSIVE)[5]
    for odd in (b"\xff\x02", b"\xff\xd8", b"\xff\xf0", segment(0xFE, b"c") * 6000):
        assert count(PROGRESSIVE[:at] + odd + FAKE_END + PROGRESSIVE[at:]) == 10


def test_count_agrees_with_a_byte_by_byte_reader() -> None:
    draw = random.Random(1)
    for _time in range(3000):
        tail = bytes(draw.choices(b"\xff\xff\xda\xd9\xd0\0\1\xfe", k=draw.randrange(40)))
        data = b"\xff\xd8" + tail
        assert count(data) == plain_count(data), data


def plain_count(data: bytes) -> int:
    """Count the scans byte by byte."""
    scans, at = 0, 2
    while at + 1 < len(data):
        code = data[at + 1]
        if data[at] != 0xFF or code in {0, 1, 0xFF, *range(0xD0, 0xD8)}:
            at += 1
        elif code == 0xD9:
            return scans
        else:
            scans += code == 0xDA
            at += 2 + max(2, int.from_bytes(data[at + 2 : at + 4], "big"))
    return scans


def test_only_the_first_picture_of_an_mpo_is_read() -> None:
    data = samples()["jpeg-mpo"].data
    header = read_header(data, DEFAULT_RECIPE, 10**8)
    assert header.bytes == 8 * SCENE.width * SCENE.height
    assert np.array_equal(np.asarray(decode_pixels(header).image), pixels(data))


@pytest.mark.parametrize("kind", ["progressive", "first scan of one component"])
def test_header_bytes_include_buffered_coefficients(kind: str) -> None:
    data = progressive(640, 480, 0, components=1 if kind == "progressive" else 3)
    second = [*places_of_scans(data), 0, 0][1]
    if kind != "progressive":  # a baseline picture, truncated after its first scan
        data = data[:second].replace(b"\xff\xc2", b"\xff\xc0") + FAKE_END
    layers = 1 if kind == "progressive" else 3
    header = read_header(data, DEFAULT_RECIPE, 10**8)
    assert header.bytes == (8 + 2 * layers) * 640 * 480


def test_phone_photographs_are_within_the_default_limit() -> None:
    for width, height in ((8160, 6144), (9248, 6936)):
        for options in ({}, {"progressive": True}):
            data = encode(Image.new("L", (width, height), 90), "JPEG", quality=30, **options)
            assert read_header(data, DEFAULT_RECIPE, 67_000_000).bytes < 6 * 67_000_000
