"""Draw images for requests."""

import io
import zlib
from typing import Any

import numpy as np
from PIL import Image


def noise(seed: int, width: int = 320, height: int = 240) -> Image.Image:
    """Draw blurred colour noise; a network tells different seeds apart."""
    coarse = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)


def encoded(image: Image.Image, kind: str = "JPEG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def colour(red: int, green: int, blue: int) -> bytes:
    return encoded(Image.new("RGB", (256, 256), (red, green, blue)), "PNG")


def plain(level: int) -> bytes:
    return colour(level, level, level)


HEADER = b"IHDR" + (100_000).to_bytes(4, "big") * 2 + b"\x08\x02\0\0\0"


PNG_HEADER_OF_10_GIGAPIXELS = (
    b"\x89PNG\r\n\x1a\n\0\0\0\r" + HEADER + zlib.crc32(HEADER).to_bytes(4, "big") + b"\0\0\0\0IDAT"
)
