"""Test the place of a first frame on its canvas, and orientation by XMP: both as in browsers."""

import numpy as np
import pytest
from PIL import Image

from contract.picture import decode
from contract.recipe import DEFAULT_RECIPE
from tests.support.drawing.canvas import gif_on_canvas, webp_on_canvas
from tests.support.drawing.pictures import Array, encode, orientation_tag, png_chunk, scene

XMP = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:Description tiff:Orientation="6"/></x:xmpmeta>'


def decoded_rgb(data: bytes) -> Array:
    picture = decode(data, DEFAULT_RECIPE, 10**7)
    assert picture.image.size == (picture.width, picture.height)
    return np.asarray(picture.image.convert("RGB"))


def on_white(colour: tuple[int, int, int], box: tuple[int, int, int, int]) -> Array:
    canvas = Image.new("RGB", (64, 48), "white")
    canvas.paste(colour, box)
    return np.asarray(canvas)


BOXES = [(0, 0, 64, 48), (16, 8, 48, 40), (0, 0, 32, 48), (32, 0, 64, 24), (62, 46, 64, 48)]


@pytest.mark.parametrize("frames", [1, 2])
@pytest.mark.parametrize("transparent", [None, 3, 5])
@pytest.mark.parametrize("box", BOXES)
def test_canvas_around_the_first_gif_frame_is_white(
    box: tuple[int, int, int, int], transparent: int | None, frames: int
) -> None:
    """The frame has palette index 3."""
    data = gif_on_canvas((64, 48), box, 3, transparent, frames)
    colour = (255, 255, 255) if transparent == 3 else (90, 165, 90)
    assert np.array_equal(decoded_rgb(data), on_white(colour, box))


@pytest.mark.parametrize("alpha", [None, 255, 128])
@pytest.mark.parametrize("box", BOXES)
def test_canvas_around_the_first_webp_frame_is_white(
    box: tuple[int, int, int, int], alpha: int | None
) -> None:
    colour = (200, 30, 60)
    data = webp_on_canvas((64, 48), box, colour, alpha)
    blended = colour if alpha != 128 else (227, 142, 157)
    assert np.abs(decoded_rgb(data).astype(int) - on_white(blended, box)).max() <= 1


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "AVIF", "TIFF"])
def test_orientation_in_xmp_alone_is_ignored(kind: str) -> None:
    image = scene(80, 60)
    for exif in (None, 1, 6):
        data = with_xmp(image, kind, exif)
        assert b"tiff:Orientation" in data
        size = (60, 80) if exif == 6 else (80, 60)
        picture = decode(data, DEFAULT_RECIPE, 10**6)
        assert picture.image.size == (picture.width, picture.height) == size, exif


def with_xmp(image: Image.Image, kind: str, exif: int | None) -> bytes:
    options = {"exif": orientation_tag(exif)} if exif else {}
    if kind == "TIFF":
        return encode(image, kind, tiffinfo={700: XMP} | ({274: exif} if exif else {}))
    if kind == "PNG":
        plain = encode(image, kind, **options)
        body = b"XML:com.adobe.xmp\0\0\0\0\0" + XMP
        return plain[:33] + png_chunk(b"iTXt", body) + plain[33:]
    return encode(image, kind, xmp=XMP, **options)
