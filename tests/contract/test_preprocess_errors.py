"""Test that any bytes give pixels or an ImageError whose message reveals no internals."""

import re
import struct
import subprocess
import sys
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from contract.picture import ImageError, InvalidImage, TooManyPixels, UnsupportedImage, decode, sniff
from contract.preprocess import centre_crop
from contract.recipe import DEFAULT_RECIPE
from tests.support.checkout import ROOT
from tests.support.drawing.pictures import encode, png, png_chunk, tiff
from tests.support.drawing.samples import SCENE, samples

LIMIT = 1_000_000
# Every format, and everything with a parser of its own: profiles, EXIF, animation, alpha, libtiff.
FUZZED = [
    *("jpeg-rgb", "jpeg-progressive", "jpeg-cmyk", "jpeg-exif", "jpeg-icc", "jpeg-mpo"),
    *("png-palette-key", "png-rgb-exif", "png-rgba-icc", "png-grey-icc", "png-grey16-key", "png-animated"),
    *("gif", "gif-animated", "bmp-1", "bmp-palette", "tiff-1", "tiff-rgb-lzw", "tiff-lab", "tiff-pages"),
    *("webp-lossy", "webp-icc", "webp-exif", "webp-animated"),
    *("avif-rgb", "avif-icc", "avif-exif", "heif-rgb", "heif-exif"),
]


def outcome(data: bytes) -> str:
    """Decode and crop as the service does. Any exception but ImageError fails the test."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # warnings are errors only in tests
            crop = centre_crop(decode(data, DEFAULT_RECIPE, LIMIT), DEFAULT_RECIPE)
    except ImageError as error:
        message = str(error)
        assert message
        assert len(message) < 300
        assert not re.search(r"(?<!\d)0x[0-9a-f]{4}|<[^>]*object|/[a-z]+/|\n", message), message
        return type(error).__name__
    assert crop.shape == (224, 224, 3)
    assert crop.dtype == np.uint8
    return "pixels"


@pytest.mark.parametrize("name", FUZZED)
def test_truncated_file_is_invalid_or_still_decodes(name: str) -> None:
    data = samples()[name].data
    lengths = [*range(0, 64, 3), *np.linspace(64, len(data) - 1, 40).astype(int).tolist()]
    outcomes = {length: outcome(data[:length]) for length in lengths}
    assert set(outcomes.values()) <= {"pixels", "InvalidImage", "UnsupportedImage"}, outcomes
    assert outcomes[lengths[len(lengths) // 2]] == "InvalidImage"  # no partial picture


@pytest.mark.parametrize("name", FUZZED)
def test_random_bytes_raise_only_image_errors(name: str) -> None:
    data = samples()[name].data
    draw = np.random.default_rng(len(name))
    for trial in range(40):
        broken = bytearray(data)
        reach = len(data) if trial % 2 else min(len(data), 400)  # half of the trials break the header
        for place in draw.integers(0, reach, draw.integers(1, 8)):
            broken[place] = draw.integers(0, 256)
        outcome(bytes(broken))


@settings(max_examples=150)
@given(
    st.sampled_from(FUZZED),
    st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.binary(max_size=6)), max_size=4),
    st.floats(0, 1),
)
def test_replaced_pieces_raise_only_image_errors(
    name: str, pieces: list[tuple[float, bytes]], end: float
) -> None:
    data = samples()[name].data
    for place, piece in pieces:
        at = int(place * len(data))
        data = data[:at] + piece + data[at + len(piece) :]
    outcome(data[: int(end * len(data)) + 1])


@given(st.binary(max_size=64), st.sampled_from(["", *FUZZED]), st.integers(0, 16))
def test_noise_after_a_signature_raises_only_image_errors(noise: bytes, name: str, length: int) -> None:
    outcome((samples()[name].data[:length] if name else b"") + noise)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\0" * 1000,
        b"hello, world",
        b"%PDF-1.7\n",
        b"<svg xmlns='http://www.w3.org/2000/svg'/>",
        b"\x00\x00\x01\x00\x01\x00",
        b"8BPS\0\1",
        b"RIFF\x24\0\0\0WAVEfmt ",
        b"\0\0\0\x18ftypmp42\0\0\0\0isommp42",
    ],
)
def test_unknown_signature_is_unsupported_and_lists_formats(data: bytes) -> None:
    assert sniff(data) is None
    with pytest.raises(UnsupportedImage, match="JPEG, PNG, WebP, GIF, TIFF, BMP or AVIF"):
        decode(data, DEFAULT_RECIPE, LIMIT)


@pytest.mark.parametrize("kind", ["PPM", "ICO", "TGA", "JPEG2000", "PCX", "DDS"])
def test_other_formats_of_pillow_are_unsupported(kind: str) -> None:
    with pytest.raises(UnsupportedImage):
        decode(encode(Image.new("RGB", (32, 32)), kind), DEFAULT_RECIPE, LIMIT)


@pytest.mark.parametrize("name", samples())
def test_sniff_returns_the_format_of_the_signature(name: str) -> None:
    assert sniff(samples()[name].data) == name.split("-")[0].upper()


def claiming(width: int, height: int) -> list[bytes]:
    """Make files of four formats whose headers claim this size, with almost no data."""
    header = png_chunk(b"IHDR", struct.pack(">II5B", width, height, 8, 2, 0, 0, 0))
    bmp = bytearray(encode(Image.new("RGB", (4, 4)), "BMP"))
    bmp[18:26] = struct.pack("<ii", width, height)
    jpeg = bytearray(encode(Image.new("L", (8, 8)), "JPEG"))
    frame = jpeg.index(b"\xff\xc0")
    jpeg[frame + 5 : frame + 9] = struct.pack(">HH", min(height, 65535), min(width, 65535))
    strip = bytearray(tiff(np.zeros((2, 2, 3), np.uint8), 2))
    for tag, value in ((256, width), (257, height), (278, height)):
        entry = strip.index(struct.pack("<HHI", tag, 4, 1)) + 8
        strip[entry : entry + 4] = struct.pack("<I", value)
    data = b"\x89PNG\r\n\x1a\n" + header + png_chunk(b"IDAT", b"\x78\x9c\x63\0\0")
    return [data, bytes(bmp), bytes(jpeg), bytes(strip)]


@pytest.mark.parametrize("index", range(4), ids=["png", "bmp", "jpeg", "tiff"])
def test_too_many_pixels_are_refused_before_decoding(index: int) -> None:
    """Decoding would fail as truncated, so TooManyPixels shows that it was not started."""
    with pytest.raises(TooManyPixels, match=r"\d+x\d+ = \d{10,} pixels; the limit is 1000000"):
        decode(claiming(100_000, 100_000)[index], DEFAULT_RECIPE, LIMIT)


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "AVIF", "HEIF", "JPEG", "TIFF"])
def test_max_pixels_counts_the_pixels_of_the_file(kind: str) -> None:
    samples()  # registers HEIF
    data = encode(Image.new("RGB", (640, 500)), kind)
    assert decode(data, DEFAULT_RECIPE, 320_000).width == 640
    with pytest.raises(TooManyPixels, match="640x500 = 320000 pixels; the limit is 319999"):
        decode(data, DEFAULT_RECIPE, 319_999)


@pytest.mark.parametrize("size", [(10, 0), (0, 10), (0, 0)])
def test_picture_without_pixels_is_invalid(size: tuple[int, int]) -> None:
    width, height = size
    header = png_chunk(b"IHDR", struct.pack(">II5B", width, height, 8, 2, 0, 0, 0))
    tail = png_chunk(b"IDAT", b"x\x9c\x03\0\0\0\0\x01") + png_chunk(b"IEND", b"")
    with pytest.raises(InvalidImage):
        decode(b"\x89PNG\r\n\x1a\n" + header + tail, DEFAULT_RECIPE, LIMIT)


def test_floating_point_pixels_are_refused() -> None:
    with pytest.raises(
        InvalidImage, match=r"^floating-point pixels have no defined white; save it with 8 or 16 bits$"
    ):
        decode(encode(Image.new("F", (8, 8), 0.5), "TIFF"), DEFAULT_RECIPE, LIMIT)


def test_picture_with_broken_exif_is_decoded() -> None:
    data = png(np.asarray(SCENE), 2, (b"eXIf", b"II*\0\xff\xff\xff\xff\xff"))
    assert outcome(data) == "pixels"


HEIC_WITHOUT_ITS_PACKAGE = """
import sys

class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "pillow_heif":
            raise ImportError(name)

sys.meta_path.insert(0, Blocker())
from contract.picture import UnsupportedImage, decode
from contract.recipe import DEFAULT_RECIPE

try:
    decode(sys.stdin.buffer.read(), DEFAULT_RECIPE, 10**6)
except UnsupportedImage as error:
    print(error)
"""


def test_heic_without_pillow_heif_names_the_package() -> None:
    """Decode in a process in which pillow_heif cannot be imported."""
    command = [sys.executable, "-W", "error", "-c", HEIC_WITHOUT_ITS_PACKAGE]
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, input=samples()["heif-rgb"].data, check=True
    )
    message = done.stdout.decode()
    assert "pillow-heif" in message
    assert "extra `heif`" in message
    assert "as JPEG" in message
