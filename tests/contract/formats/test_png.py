"""Test transparent colours and gamma of PNG against the arithmetic of the specification."""

import struct
import zlib
from typing import Any

import numpy as np
import pytest
from PIL import Image

from contract.picture import decode, read_header
from contract.preprocess import square
from contract.recipe import DEFAULT_RECIPE
from tests.corpus.files import png_of
from tests.support.drawing.pictures import Array, encode, png_chunk, swapped_profile
from tests.support.drawing.samples import SCENE

PALETTE = np.random.default_rng(3).integers(0, 256, (256, 3), dtype=np.uint8)
CHANNELS = {0: 1, 2: 3, 3: 1}
DEPTHS = [(0, 1), (0, 2), (0, 4), (0, 8), (0, 16), (2, 8), (2, 16), (3, 1), (3, 2), (3, 4), (3, 8)]
# The first pixel (y, x) of each Adam7 pass, and its steps.
ADAM7 = [(0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1)]


def packed(samples: Array, depth: int) -> bytes:
    rows = samples.reshape(len(samples), -1)
    bits = np.unpackbits(rows.astype(">u2").view(np.uint8).reshape(*rows.shape, 2), axis=2)[
        ..., 16 - depth :
    ]
    return b"".join(b"\0" + row.tobytes() for row in np.packbits(bits.reshape(len(rows), -1), axis=1))


def png(samples: Array, colour: int, depth: int, *chunks: bytes, interlaced: bool = False) -> bytes:
    raw = packed(samples, depth)
    if interlaced:
        raw = b"".join(packed(samples[y::v, x::h], depth) for y, x, v, h in ADAM7)
    height, width = samples.shape[:2]
    return png_of(width, height, depth, colour, raw, *chunks, interlace=int(interlaced))


def decoded_rgb(data: bytes) -> Array:
    return np.asarray(decode(data, DEFAULT_RECIPE, 10**7).image.convert("RGB")).astype(int)


def expected_rgb(samples: Array, colour: int, depth: int) -> Array:
    """Return the expected RGB without transparency.

    Of 16 bits, grey has the nearest level, colours the upper byte.
    """
    if colour == 3:
        return PALETTE[samples[..., 0]].astype(int)
    levels = samples.astype(int)
    if depth == 16:
        levels = levels >> 8 if colour == 2 else (levels + 128) // 257
    else:
        levels = levels * (255 // (2**depth - 1))
    return np.broadcast_to(levels, (*levels.shape[:2], 3))


@pytest.mark.parametrize("interlaced", [False, True])
@pytest.mark.parametrize(("colour", "depth"), [pair for pair in DEPTHS if pair[0] != 3])
def test_only_the_transparent_colour_becomes_white(colour: int, depth: int, interlaced: bool) -> None:
    draw = np.random.default_rng(depth)
    samples = draw.integers(0, 2**depth, (30, 40, CHANNELS[colour])).astype(np.uint16)
    samples[5:9] = key = samples[0, 0]
    near = key ^ np.uint16(1)  # differs in the lowest bit only
    samples[12:14] = [*key[:-1], near[-1]]
    plain = expected_rgb(samples, colour, depth)
    assert np.array_equal(decoded_rgb(png(samples, colour, depth, interlaced=interlaced)), plain)
    beyond = 0xFFFF & ~(2**depth - 1)  # bits above the depth are to be ignored
    for noise in (0, beyond):
        chunk = png_chunk(b"tRNS", struct.pack(f">{len(key)}H", *(int(level) | noise for level in key)))
        expected = np.where((samples == key).all(2)[..., None], 255, plain)
        assert np.array_equal(
            decoded_rgb(png(samples, colour, depth, chunk, interlaced=interlaced)), expected
        )


@pytest.mark.parametrize("shift", [0, 8])
def test_16_bit_transparent_colour_is_compared_in_all_bits(shift: int) -> None:
    """0x8000 is neither 0 nor 0x8001."""
    for key in ((0x8000,) * 3, (0x0080,) * 3, (1 << shift, 0, 0)):
        chunk = png_chunk(b"tRNS", struct.pack(">3H", *key))
        assert (decoded_rgb(png(np.zeros((9, 9, 3), np.uint16), 2, 16, chunk)) == 0).all()
    samples = np.full((9, 9, 3), 0x8001, np.uint16)
    chunk = png_chunk(b"tRNS", struct.pack(">3H", *[0x8000] * 3))
    assert (decoded_rgb(png(samples, 2, 16, chunk)) == 0x80).all()
    assert (decoded_rgb(png(samples - 1, 2, 16, chunk)) == 255).all()


def test_16_bit_transparent_colour_in_a_picture_of_several_strips() -> None:
    samples = np.zeros((1300, 1700, 3), np.uint16)
    samples[::7] = 0x1234
    data = png(samples, 2, 16, png_chunk(b"tRNS", struct.pack(">3H", *[0x1234] * 3)))
    assert np.array_equal(decoded_rgb(data)[..., 0], np.where(samples[..., 0], 255, 0))
    assert read_header(data, DEFAULT_RECIPE, 10**7).bytes == 2 * 16 * 1300 * 1700  # decoded twice


@pytest.mark.parametrize("depth", [1, 2, 4, 8])
@pytest.mark.parametrize("entries", ["one", "some", "all", "256", "300"])
def test_palette_alpha_applies_to_its_entries(depth: int, entries: str) -> None:
    samples = np.random.default_rng(depth).integers(0, 2**depth, (30, 40, 1)).astype(np.uint16)
    count = {"one": 1, "some": 2**depth // 2, "all": 2**depth, "256": 256, "300": 300}[entries]
    alpha = np.random.default_rng(9).integers(0, 256, count).astype(np.uint8)
    palette = png_chunk(b"PLTE", PALETTE[: 2**depth].tobytes())
    data = png(samples, 3, depth, palette, png_chunk(b"tRNS", alpha.tobytes()))
    opacity = np.full(300, 255)
    if count <= 256:
        opacity[:count] = alpha
    share = opacity[samples[..., 0]][..., None] / 255
    expected = expected_rgb(samples, 3, depth) * share + 255 * (1 - share)
    assert np.abs(decoded_rgb(data) - expected).max() <= 1


@pytest.mark.parametrize("where", ["short", "behind", "beside alpha"])
def test_misplaced_transparency_is_ignored(where: str) -> None:
    grey = np.arange(16, dtype=np.uint16).reshape(2, 8, 1)
    chunk = png_chunk(b"tRNS", b"\0\5"[where == "short" :])
    if where == "behind":
        data = png(grey, 0, 8)
        data = data[:-12] + chunk + data[-12:]
    elif where == "short":
        data = png(grey, 0, 8, chunk)
    else:
        data = png(np.concatenate([grey, 0 * grey + 255], 2), 4, 8, chunk)
    assert np.array_equal(decoded_rgb(data)[..., 0], grey[..., 0])


def to_srgb(light: Any) -> Any:
    light = np.clip(light, 0, 1)
    return 255 * np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055)


def gamma(value: float) -> bytes:
    return png_chunk(b"gAMA", struct.pack(">I", round(100_000 * value)))


SRGB_COLOURS = (0.3127, 0.329, 0.64, 0.33, 0.3, 0.6, 0.15, 0.06)
P3_COLOURS = (0.3127, 0.329, 0.68, 0.32, 0.265, 0.69, 0.15, 0.06)


def primaries(colours: tuple[float, ...]) -> bytes:
    return png_chunk(b"cHRM", struct.pack(">8I", *(round(100_000 * value) for value in colours)))


def flat(level: int, colour: int, *chunks: bytes) -> Array:
    """Return the square's pixel for a picture of one colour: (level, level // 2, 90) where it is RGB."""
    pixel = [level, level // 2, 90] if colour == 2 else [level]
    samples = np.full((64, 64, len(pixel)), pixel, np.uint16)
    palette = [png_chunk(b"PLTE", bytes([0, 0, 0, level, level // 2, 90]))] if colour == 3 else []
    data = png(samples // level if colour == 3 else samples, colour, 8, *chunks, *palette)
    pixels = square(decode(data, DEFAULT_RECIPE, 10**6), DEFAULT_RECIPE)
    assert (pixels == pixels[0, 0]).all()
    return np.asarray(pixels[0, 0], int)


@pytest.mark.parametrize("value", [0.1, 0.3, 0.43, 0.5, 0.5556, 1.0, 2.0])
@pytest.mark.parametrize("colour", [0, 2, 3])
def test_gamma_is_applied(colour: int, value: float) -> None:
    for level in (1, 64, 128, 250):
        pixel = np.array([level] * 3 if colour == 0 else [level, level // 2, 90]) / 255
        expected = to_srgb(pixel ** (1 / value))
        assert np.abs(flat(level, colour, gamma(value)) - expected).max() <= 2


@pytest.mark.parametrize(
    "chunks",
    [
        [gamma(0.45455)],
        [gamma(0.47)],
        [gamma(0)],
        [gamma(0.45455), primaries(SRGB_COLOURS)],
        [primaries(P3_COLOURS)],
        [gamma(1), png_chunk(b"sRGB", b"\0")],
        [gamma(1), png_chunk(b"cICP", bytes([1, 13, 0, 1]))],
        [gamma(0.45455), primaries((0,) * 8)],
        [gamma(0.45455), primaries((0.3, 0.3) * 4)],
    ],
)
def test_colours_near_srgb_are_unchanged(chunks: list[bytes]) -> None:
    assert flat(128, 2, *chunks).tolist() == [128, 64, 90]


def test_profile_takes_precedence_over_gamma() -> None:
    plain = encode(Image.new("RGB", (64, 64), (200, 90, 30)), "PNG", icc_profile=swapped_profile())
    picture = decode(plain[:33] + gamma(1) + plain[33:], DEFAULT_RECIPE, 10**6)
    assert np.abs(square(picture, DEFAULT_RECIPE)[0, 0].astype(int) - (30, 90, 200)).max() <= 1


@pytest.mark.parametrize("colour", [3, 4, 6])
def test_gamma_is_applied_before_alpha(colour: int) -> None:
    sample = {3: [0], 4: [100, 60], 6: [100, 100, 100, 60]}[colour]
    chunks = [png_chunk(b"PLTE", bytes([100] * 3)), png_chunk(b"tRNS", bytes([60]))] if colour == 3 else []
    data = png(np.full((64, 64, len(sample)), sample, np.uint16), colour, 8, gamma(1), *chunks)
    expected = to_srgb(100 / 255) * 60 / 255 + 255 - 60
    pixel = square(decode(data, DEFAULT_RECIPE, 10**6), DEFAULT_RECIPE)[0, 0]
    assert np.abs(pixel - expected).max() <= 2


def test_gamma_applies_where_the_profile_is_invalid() -> None:
    profile = png_chunk(b"iCCP", b"x\0\0" + zlib.compress(b"no profile"))
    assert flat(128, 2, profile, gamma(1)).tolist() == flat(128, 2, gamma(1)).tolist()


@pytest.mark.parametrize("colour", [0, 2, 3])
def test_colour_chunks_after_the_pixels_are_ignored(colour: int) -> None:
    palette = png_chunk(b"PLTE", PALETTE.tobytes())
    sound = png(
        np.full((64, 64, CHANNELS[colour]), 128, np.uint16), colour, 8, *([palette] if colour == 3 else [])
    )
    profile = encode(Image.new("RGB", (9, 9)), "PNG", icc_profile=swapped_profile())
    for late in (gamma(1), profile[33 : profile.index(b"IDAT") - 4]):
        assert decode(sound[:-12] + late + sound[-12:], DEFAULT_RECIPE, 10**6).profile is None


@pytest.mark.parametrize("value", [0.45455, 1.0])
def test_primaries_are_applied_with_gamma(value: float) -> None:
    """Display P3 -> sRGB, by the matrix of CSS Color 4."""
    matrix = [[1.2249402, -0.2249402, 0], [-0.0420569, 1.0420569, 0], [-0.0196376, -0.0786361, 1.0982735]]
    for level in (64, 128, 250):
        pixel = np.array([level, level // 2, 90]) / 255
        expected = to_srgb(matrix @ pixel ** (1 / value))
        assert np.abs(flat(level, 2, gamma(value), primaries(P3_COLOURS)) - expected).max() <= 2


@pytest.mark.parametrize("value", [0.00001, 40_000.0])
def test_extreme_gamma_raises_nothing(value: float) -> None:
    assert flat(255, 2, gamma(value)).shape == (3,)
    assert decoded_rgb(png(np.full((9, 9, 4), 128, np.uint16), 6, 8, gamma(value))).shape == (9, 9, 3)
    assert decode(encode(SCENE, "PNG"), DEFAULT_RECIPE, 10**6).profile is None
