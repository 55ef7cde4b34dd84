"""Test that every TIFF layout is decoded to its pixels, or refused with a remedy."""

import itertools
import zlib
from typing import Any

import numpy as np
import pytest

from contract.picture import InvalidImage, decode, read_header
from contract.recipe import DEFAULT_RECIPE
from tests.support.drawing.pictures import Array, Order, scene
from tests.support.drawing.tiffs import file_of, tiff_of_layout

ORDERS: tuple[Order, Order] = ("<", ">")
SCENE = scene(120, 100)
RGB = np.asarray(SCENE)
GREY = RGB[..., 1:2]
OPACITY = np.tile(np.linspace(0, 255, 120).astype(np.uint8)[:, None], (100, 1, 1))
OVER_WHITE = {
    "RGB": RGB * (OPACITY / 255) + 255 - OPACITY,
    "GREY": GREY * (OPACITY / 255) + 255 - OPACITY,
}
UNSPECIFIED, PREMULTIPLIED, ALPHA_TAG = ((338, 3, [kind]) for kind in (0, 1, 2))


def premultiplied(pixels: Array) -> Array:
    return np.rint(pixels * (OPACITY / 255)).astype(np.uint8)


# By name: the 8-bit samples, the photometric interpretation, further tags, and the expected RGB.
LAYOUTS: dict[str, tuple[Array, int, list[Any], Array]] = {
    "grey": (GREY, 1, [], GREY),
    "grey-white-is-zero": (255 - GREY, 0, [], GREY),
    "grey-alpha": (np.concatenate([GREY, OPACITY], 2), 1, [ALPHA_TAG], OVER_WHITE["GREY"]),
    "grey-alpha-undeclared": (np.concatenate([GREY, OPACITY], 2), 1, [], OVER_WHITE["GREY"]),
    "grey-premultiplied": (
        np.concatenate([premultiplied(GREY), OPACITY], 2),
        1,
        [PREMULTIPLIED],
        OVER_WHITE["GREY"],
    ),
    "grey-more": (np.concatenate([GREY, OPACITY], 2), 1, [UNSPECIFIED], GREY),
    "rgb": (RGB, 2, [], RGB),
    "rgb-alpha": (np.concatenate([RGB, OPACITY], 2), 2, [ALPHA_TAG], OVER_WHITE["RGB"]),
    "rgb-alpha-undeclared": (np.concatenate([RGB, OPACITY], 2), 2, [], OVER_WHITE["RGB"]),
    "rgb-premultiplied": (
        np.concatenate([premultiplied(RGB), OPACITY], 2),
        2,
        [PREMULTIPLIED],
        OVER_WHITE["RGB"],
    ),
    "rgb-more": (np.concatenate([RGB, OPACITY], 2), 2, [UNSPECIFIED], RGB),
    "cmyk": (np.concatenate([255 - RGB, 0 * GREY], 2), 5, [], RGB),
}
STORED: dict[str, dict[str, Any]] = {
    "plain": {},
    "planar": {"planar": True},
    "tiled": {"tile": 64},
    "tiled-planar": {"tile": 64, "planar": True},
    "deflated-predictor": {"deflated": True, "predictor": True},
    "deflated-planar": {"deflated": True, "planar": True},
    "reversed": {"reversed_bits": True},
    "big": {"big": True},
    "big-deflated-tiled": {"big": True, "deflated": True, "tile": 64},
}


APART = {"grey-alpha", "grey-alpha-undeclared", "grey-premultiplied", "grey-more", "rgb-alpha-undeclared"}


def decoded_rgb(data: bytes) -> Array:
    picture = decode(data, DEFAULT_RECIPE, 10**7)
    assert (picture.width, picture.height) == SCENE.size
    return np.asarray(picture.image.convert("RGB")).astype(int)


@pytest.mark.parametrize("stored", STORED)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_is_decoded_to_its_pixels(layout: str, stored: str) -> None:
    pixels, photometric, tags, expected = LAYOUTS[layout]
    options = STORED[stored]
    for bits, order in itertools.product((8, 16), ORDERS):
        wide = pixels if bits == 8 else pixels.astype(np.uint16) * 257
        data = tiff_of_layout(wide, photometric, *tags, order=order, **options)
        if order == ">" and options.get("big"):
            with pytest.raises(
                InvalidImage, match=r"^BigTIFF of big-endian order is not read; save it as TIFF"
            ):
                decoded_rgb(data)
        elif options.get("planar") and layout in APART:
            with pytest.raises(
                InvalidImage,
                match=r"^a plane of alpha .*together \(PlanarConfiguration 1\)$",
            ):
                decoded_rgb(data)
        else:
            assert np.abs(decoded_rgb(data) - expected).max() <= 2, (bits, order)


@pytest.mark.parametrize("bits", [1, 2, 4, 12])
def test_grey_of_other_depths_spans_black_to_white(bits: int) -> None:
    white = 2**bits - 1
    levels = (GREY.astype(np.uint16) * white + 127) // 255
    for photometric, order in itertools.product((0, 1), ORDERS):
        held = levels if photometric else white - levels
        data = tiff_of_layout(held, photometric, bits=bits, order=order)
        assert np.abs(decoded_rgb(data) - np.rint(levels * 255 / white)).max() <= 1, (photometric, order)


@pytest.mark.parametrize("deflated", [False, True])
def test_subsampled_colours_are_placed_correctly(deflated: bool) -> None:
    """YCbCr 2x2: four samples of luminance, then one of each colour difference."""
    ycc = np.asarray(SCENE.convert("YCbCr"))
    small = ycc.reshape(50, 2, 60, 2, 3)
    means = np.rint(small[..., 1:].mean((1, 3))).astype(np.uint8)
    blocks = np.concatenate([small[..., 0].transpose(0, 2, 1, 3).reshape(50, 60, 4), means], 2).tobytes()
    data = zlib.compress(blocks) if deflated else blocks
    tags = [(256, 3, [120]), (257, 3, [100]), (258, 3, [8, 8, 8]), (259, 3, [8 if deflated else 1])]
    tags += [(262, 3, [6]), (273, 4, [8]), (277, 3, [3]), (278, 3, [100]), (279, 4, [len(data)])]
    assert np.abs(decoded_rgb(file_of([*tags, (530, 3, [2, 2])], data)) - RGB).mean() < 3


@pytest.mark.parametrize(
    ("pixels", "photometric", "tag"),
    [
        (GREY, 1, (339, 3, [2])),  # signed
        (RGB.astype(np.uint32), 2, (339, 3, [1])),
        (RGB.astype(np.uint32), 2, (339, 3, [3, 3, 3])),  # floating point
        (RGB.astype(np.uint16), 8, (339, 3, [1])),
    ],
)
def test_unsupported_samples_name_the_remedy(pixels: Array, photometric: int, tag: Any) -> None:
    with pytest.raises(InvalidImage, match=r"save it as grey, RGB or CMYK with 8 or 16 bits a sample$"):
        decoded_rgb(tiff_of_layout(pixels, photometric, tag))


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("deflated", [False, True])
def test_32_bit_levels_are_read_up_to_65535(order: Any, deflated: bool) -> None:
    levels = GREY.astype(np.uint32) * 257
    assert np.array_equal(
        decoded_rgb(tiff_of_layout(levels, 1, order=order, deflated=deflated))[..., :1], GREY.astype(int)
    )
    with pytest.raises(InvalidImage, match=r"^32-bit levels have no defined white"):
        decoded_rgb(tiff_of_layout(levels + 65536, 1, order=order, deflated=deflated))


def test_tags_that_pillow_skips_are_refused() -> None:
    """Where Pillow skips a tag of an unknown type or size, the sizes of the strips would be unknown."""
    piece = zlib.compress(bytes(400 * 50))
    tags = [(256, 4, [400]), (257, 4, [50_000]), (258, 3, [8]), (259, 3, [8]), (262, 3, [1]), (277, 3, [1])]
    tags += [(278, 4, [50]), (273, 4, [8] * 1000)]
    for name, counts, other in (
        ("shared", (279, 4, [len(piece)] * 1000), []),
        ("unknown type", (279, 17, [len(piece)] * 1000), []),
        ("left out for its size", (279, 4, [len(piece)] * 1000), [(270, 4, [0] * 2500)]),
    ):
        for big in (False, True):
            data = file_of([*tags, counts, *other], piece, big=big)
            with pytest.raises(InvalidImage, match=r"bytes in all|of a type or size that is not read"):
                read_header(data, DEFAULT_RECIPE, 10**8)
            assert name


def test_header_bytes_of_16_bit_grey_with_alpha_include_the_copy() -> None:
    wide = np.concatenate([GREY, OPACITY], 2).astype(np.uint16)
    assert read_header(tiff_of_layout(wide, 1), DEFAULT_RECIPE, 10**7).bytes >= 12 * GREY.size


def test_bigtiff_with_too_many_claimed_tags_is_invalid() -> None:
    data = bytearray(tiff_of_layout(GREY, 1, big=True))
    at = int.from_bytes(data[8:16], "little")
    data[at : at + 8] = (2**60).to_bytes(8, "little")
    with pytest.raises(InvalidImage):
        decoded_rgb(bytes(data))
