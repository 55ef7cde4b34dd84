"""Images drawn for requests."""

import io
from typing import Any

import numpy as np
from PIL import Image


def noise(seed: int, width: int = 320, height: int = 240) -> Image.Image:
    """Blurred noise in colour: no two seeds look alike to a network."""
    coarse = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)


def encoded(image: Image.Image, kind: str = "JPEG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def plain(level: int) -> bytes:
    return encoded(Image.new("RGB", (256, 256), (level, level, level)), "PNG")
