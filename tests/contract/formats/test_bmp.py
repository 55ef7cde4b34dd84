"""Test BMP run lengths against a reader that goes pixel by pixel, and BMP alpha."""

import random
import struct

import numpy as np
import pytest

from contract.formats import bmp
from contract.picture import InvalidImage, decode, read_header
from contract.recipe import DEFAULT_RECIPE
from tests.corpus.bitmaps import bmp_of, bmp_of_runs, short_runs
from tests.support.drawing.pictures import Array
from tests.support.drawing.samples import SCENE

GREY = np.asarray(SCENE.convert("L"))
ARGB = (0xFF0000, 0xFF00, 0xFF, 0xFF000000)


def decoded_rgb(data: bytes) -> Array:
    return np.asarray(decode(data, DEFAULT_RECIPE, 10**7).image.convert("RGB"))


def unpack_by_pixels(data: bytes, width: int, height: int, four: bool) -> Array | None:
    """Unpack RLE8 or RLE4 pixel by pixel; None where the data end before the picture."""
    pixels = np.zeros((height, width), np.uint8)
    at = x = y = 0

    def put(index: int) -> None:
        nonlocal x
        if x < width:
            pixels[y, x] = index
            x += 1

    while y < height - 1 or (y < height and x < width):
        if at + 2 > len(data):
            return None
        count, value = data[at : at + 2]
        at += 2
        if count:
            for n in range(count):
                put((value >> 4 if n % 2 == 0 else value & 15) if four else value)
        elif value == 0:
            x, y = 0, y + 1
        elif value == 1:
            break
        elif value == 2:
            if at + 2 > len(data):
                return None
            x, y = min(width, x + data[at]), y + data[at + 1]
            at += 2
        else:
            size = (value + 1) // 2 if four else value
            if at + size > len(data):
                return None
            for n in range(value):
                put(
                    (data[at + n // 2] >> 4 if n % 2 == 0 else data[at + n // 2] & 15)
                    if four
                    else data[at + n]
                )
            at += size + size % 2
    return pixels


@pytest.mark.parametrize("four", [False, True])
def test_unpack_agrees_with_a_pixel_by_pixel_reader(four: bool) -> None:
    draw = random.Random(int(four))
    complete = 0
    for _time in range(500):
        width, height = draw.randint(1, 300), draw.randint(1, 6)
        data = b""
        for _part in range(draw.randint(1, 12)):
            kind = draw.choice(["run", "many", "line", "skip", "bytes", "end"])
            if kind in {"run", "many"}:
                for _run in range(draw.randint(1, 3 if kind == "run" else 250)):
                    data += bytes([draw.randint(1, 9), draw.randrange(256)])
            elif kind == "bytes":
                count = draw.randint(3, 40)
                size = (count + 1) // 2 if four else count
                data += bytes([0, count]) + draw.randbytes(size + size % 2)
            else:
                skip = b"\0\2" + bytes([draw.randrange(9), draw.randrange(3)])
                data += {"line": b"\0\0", "skip": skip, "end": b"\0\1" * (draw.random() < 0.3)}[kind]
        data += b"\0\1" * draw.randrange(2)
        expected = unpack_by_pixels(data, width, height, four)
        if expected is None:
            with pytest.raises(ValueError, match="truncated"):
                bmp.unpack(data, width, height, four)
        else:
            assert bytes(bmp.unpack(data, width, height, four)) == expected.tobytes()
            complete += 1
    assert complete > 100


@pytest.mark.parametrize("grey", [False, True])
def test_bmp_of_a_million_short_runs_is_decoded(grey: bool) -> None:
    levels = np.tile(np.arange(1000) * 7 % 256, (800, 1)).astype(np.uint8)
    data = short_runs(levels, grey)
    palette = np.arange(256) if grey else np.arange(255, -1, -1)
    assert np.array_equal(decoded_rgb(data)[..., 0], palette[levels])


def test_rle4_of_short_runs_is_decoded() -> None:
    levels = np.random.default_rng(1).integers(0, 16, (300, 400)).astype(np.uint8)
    rows = b"".join(b"".join(bytes([1, level << 4]) for level in row) + b"\0\0" for row in levels[::-1])
    palette = bytes(value for n in range(16) for value in (n, 5 * n, 255 - n, 0))
    data = bmp_of_runs(400, 300, rows + b"\0\1", palette, bits=4)
    assert np.array_equal(decoded_rgb(data), np.stack([255 - levels, 5 * levels, levels], 2))


def test_rows_that_end_early_are_filled_with_palette_index_0() -> None:
    palette = bytes(value for n in range(256) for value in (n, 255 - n, 90, 0))
    data = bmp_of_runs(64, 48, b"\x20\7\0\0" * 20 + b"\0\1", palette)
    pixels = decoded_rgb(data)
    assert (pixels[-20:, :32] == (90, 248, 7)).all()
    assert (pixels[-20:, 32:] == (90, 255, 0)).all()
    assert (pixels[:-20] == (90, 255, 0)).all()


def test_truncated_rle_is_invalid() -> None:
    data = short_runs(GREY, grey=True)
    with pytest.raises(InvalidImage, match="image file is truncated"):
        decoded_rgb(data[: len(data) // 2])


def test_header_bytes_include_the_time_for_run_lengths() -> None:
    assert read_header(short_runs(GREY, grey=True), DEFAULT_RECIPE, 10**7).bytes > 8 * GREY.size


@pytest.mark.parametrize(
    ("bits", "compression", "masks"),
    [(2, 0, ()), (16, 3, (0xF00, 0xF0, 0xF)), (24, 4, ()), (32, 3, (1023, 1 << 10, 1 << 20))],
)
def test_unsupported_bmp_names_the_remedy(bits: int, compression: int, masks: tuple[int, ...]) -> None:
    data = bmp_of(8, 8, bits, compression, bytes(256), struct.pack(f"<{len(masks)}I", *masks))
    with pytest.raises(
        InvalidImage, match=r"^Unsupported BMP .*; save it with 24 bits a pixel, or as PNG$"
    ):
        decoded_rgb(data)


def pixel(alpha: int) -> bytes:
    return bytes([30, 90, 200, alpha])


@pytest.mark.parametrize("size", [40, 56, 108, 124])
@pytest.mark.parametrize(
    ("pixels", "expected"),
    [
        (pixel(255) * 64, {(200, 90, 30)}),
        (pixel(0) * 64, {(200, 90, 30)}),  # as many programs write it
        (pixel(0) * 63 + pixel(255), {(255, 255, 255), (200, 90, 30)}),
        (pixel(128) * 64, {(227, 172, 142)}),
    ],
)
def test_alpha_that_is_0_everywhere_is_ignored(
    size: int, pixels: bytes, expected: set[tuple[int, ...]]
) -> None:
    """With a header of 40 bytes there is no alpha channel."""
    pixels_read = decoded_rgb(bmp_of(8, 8, 32, 3, pixels, struct.pack("<4I", *ARGB), size))
    colours = {tuple(colour) for colour in pixels_read.reshape(-1, 3).tolist()}
    assert colours == (expected if size > 40 else {(200, 90, 30)})


@pytest.mark.parametrize("height", [8, -8])
@pytest.mark.parametrize(("bits", "masks"), [(16, ()), (16, (0xF800, 0x7E0, 0x1F)), (24, ()), (32, ())])
def test_top_down_and_bottom_up_rows(height: int, bits: int, masks: tuple[int, ...]) -> None:
    rows = np.arange(8)[:, None].repeat(16, 1)
    if bits == 16:
        stored = (rows << (11 if masks else 10)).astype("<u2").tobytes()
    else:
        stored = (
            np.stack([0 * rows, 0 * rows, rows * 9, 0 * rows][: bits // 8], 2).astype(np.uint8).tobytes()
        )
    data = bmp_of(16, height, bits, 3 if masks else 0, stored, struct.pack(f"<{len(masks)}I", *masks))
    red = decoded_rgb(data)[..., 0].astype(int)
    expected = rows * 9 if bits > 16 else rows * 255 / 31
    assert np.abs(red - (expected if height < 0 else expected[::-1])).max() <= 1
