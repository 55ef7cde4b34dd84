"""Convert a picture to RGB, L, CMYK or LAB without alpha or palette, so that it can be resized.

Resampling averages pixels, which palettes, transparency and 16-bit levels do not allow directly.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from PIL import Image, ImageChops

from contract.errors import InvalidImage
from contract.formats import tiff

Box = tuple[int, int, int, int]


def drawable(image: Image.Image) -> Image.Image:
    """Convert a picture to mode RGB, L, CMYK or LAB.

    Raises InvalidImage for levels without a known white.
    """
    if image.mode == "F":
        raise InvalidImage("floating-point pixels have no defined white; save it with 8 or 16 bits")
    if image.mode.startswith("I"):  # 16-bit grey, also in Pillow's 32-bit mode
        grey = _in_strips(image, "L", _eight_bits)
        # Photometric 0 of TIFF counts from white; Pillow inverts it for 8 bits, but not for 16.
        return ImageChops.invert(grey) if _white_is_zero(image) else grey
    if image.has_transparency_data:
        # A grey picture stays grey, so that its grey ICC profile still fits.
        return _in_strips(image, "L" if image.mode in {"L", "LA", "La", "1"} else "RGB", _over_white)
    if image.mode in {"RGB", "L", "CMYK", "LAB"}:
        return image
    return image.convert("L" if image.mode == "1" else "RGB")


def whiten_around(image: Image.Image, box: Box) -> None:
    """Paint everything outside of `box` white, in place."""
    left, top, right, bottom = box
    width, height = image.size
    for area in (
        (0, 0, width, top),
        (0, bottom, width, height),
        (0, 0, left, height),
        (right, 0, width, height),
    ):
        if area[0] < area[2] and area[1] < area[3]:
            image.paste("white", area)


def _in_strips(image: Image.Image, mode: str, convert: Callable[[Image.Image], Image.Image]) -> Image.Image:
    """Apply `convert` to a million pixels at a time, so that its intermediate copies stay small."""
    converted = Image.new(mode, image.size)
    rows = max(1, 1_000_000 // image.width)
    for top in range(0, image.height, rows):
        box = (0, top, image.width, min(top + rows, image.height))
        strip = convert(image.crop(box))
        converted.paste(strip.getchannel(0) if mode == "L" else strip, box)
    return converted


def _over_white(strip: Image.Image) -> Image.Image:
    if strip.mode == "La":
        strip = strip.convert("LA")  # the only mode that Pillow converts La to
    rgba = strip.convert("RGBA")
    white = Image.new("RGBA", rgba.size, "white")
    return Image.alpha_composite(white, rgba).convert("RGB")


def _eight_bits(strip: Image.Image) -> Image.Image:
    # 65535 / 257 = 255; Pillow's own convert() would saturate at 255 instead.
    levels = np.asarray(strip, dtype=np.int32)
    if levels.min() < 0 or levels.max() > 65535:
        raise InvalidImage("32-bit levels have no defined white; save it with 8 or 16 bits")
    if tiff.has_12_bits(strip):
        levels = levels * 16 + (levels >> 8)
    key = strip.info.get("transparency")  # the transparent grey level of a PNG
    if isinstance(key, int):
        levels = np.where(levels == key, 65535, levels)
    return Image.fromarray(((levels + 128) // 257).astype(np.uint8))


def _white_is_zero(image: Image.Image) -> bool:
    tags: Any = getattr(image, "tag_v2", {})
    return bool(tags.get(262) == 0)
