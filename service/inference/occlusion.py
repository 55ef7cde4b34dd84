"""What an answer rests on: how far the probability of a label falls when a part of the picture is covered
(Zeiler and Fergus, "Visualizing and Understanding Convolutional Networks", 2014).

benchmarks/explanations.py compares it with maps of conv5 by how faithful they are.
"""

import io
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from contract.preprocess import Pixels

Map = NDArray[np.float32]  # (rows, columns), 0 to 1

GRID: Final = 7  # places a side; each costs a forward pass
PATCH: Final = 4 / GRID / 2  # side of what is covered, of the picture's: two places, so that they overlap
OVERLAY: Final = 0.6  # how much of the colour is seen where the map is 1


def covered(crop: Pixels, mean: tuple[float, float, float]) -> list[Pixels]:
    """(S, S, 3) uint8 -> GRID * GRID copies, each with a square in the average colour, row by row."""
    size = len(crop)
    half = size * PATCH / 2
    copies = []
    for row, column in np.ndindex(GRID, GRID):
        y, x = ((place + 0.5) * size / GRID for place in (row, column))
        copy = crop.copy()
        copy[round(max(0, y - half)) : round(y + half), round(max(0, x - half)) : round(x + half)] = (
            np.rint(mean)
        )
        copies.append(copy)
    return copies


def occlusion_map(whole: float, parts: list[float]) -> Map:
    """The probability of the label for the crop and for its `covered` copies -> (GRID, GRID). All 0 where
    nothing that was covered made it less probable.
    """
    falls = np.maximum(whole - np.array(parts, np.float32), 0).reshape(GRID, GRID)
    return np.asarray(falls / max(float(falls.max()), 1e-6))


def overlay(crop: Pixels, found: Map) -> bytes:
    """A PNG of the crop in grey, tinted where the answer rests."""
    size = (len(crop), len(crop))
    smooth = np.asarray(Image.fromarray(found).resize(size, Image.Resampling.BICUBIC)).clip(0, 1)[..., None]
    grey = np.asarray(Image.fromarray(crop).convert("L"), np.float32)[..., None]
    colour = np.array([255, 140, 0], np.float32)
    picture = grey * (1 - OVERLAY * smooth) + colour * OVERLAY * smooth
    buffer = io.BytesIO()
    Image.fromarray(picture.round().astype(np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()
