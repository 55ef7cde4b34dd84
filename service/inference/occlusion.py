"""Compute occlusion maps: how far a label's probability falls when a part of the image is covered.

Source: Zeiler and Fergus, "Visualizing and Understanding Convolutional Networks", 2014.
benchmarks/explanations.py measures how faithful these maps are, compared with maps of conv5.
"""

import io
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from contract.preprocess import Pixels

Map = NDArray[np.float32]  # (rows, columns), 0 to 1

GRID: Final = 7  # cells a side; each of the GRID * GRID cells costs a forward pass
PATCH: Final = 4 / GRID / 2  # side of a square, as a share of the image's: two cells, so they overlap
OVERLAY: Final = 0.6  # opacity of the colour where the map is 1


def occluded_copies(crop: Pixels, mean: tuple[float, float, float]) -> Pixels:
    """Copy a crop (S, S, 3) uint8 GRID * GRID times, each with another square covered.

    The squares follow each other row by row and have the colour `mean`.
    """
    size = len(crop)
    half = size * PATCH / 2
    copies = np.repeat(crop[None], GRID * GRID, axis=0)
    for copy, (row, column) in zip(copies, np.ndindex(GRID, GRID), strict=True):
        y, x = ((cell + 0.5) * size / GRID for cell in (row, column))
        copy[round(max(0, y - half)) : round(y + half), round(max(0, x - half)) : round(x + half)] = (
            np.rint(mean)
        )
    return copies


def occlusion_map(whole: float, parts: NDArray[np.float32]) -> Map:
    """Compute the map (GRID, GRID), from 0 to 1, of how far a label's probability falls.

    `whole` is its probability for the crop, `parts` those for the `occluded_copies`. All values are 0 if
    covering no part made the label less probable.
    """
    falls = np.maximum(whole - parts, 0).reshape(GRID, GRID)
    return np.asarray(falls / max(float(falls.max()), 1e-6))


def overlay(crop: Pixels, heat: Map) -> bytes:
    """Draw the crop in grey, tinted where the map is high, as a PNG."""
    size = (len(crop), len(crop))
    smooth = np.asarray(Image.fromarray(heat).resize(size, Image.Resampling.BICUBIC)).clip(0, 1)[..., None]
    grey = np.asarray(Image.fromarray(crop).convert("L"), np.float32)[..., None]
    colour = np.array([255, 140, 0], np.float32)
    picture = grey * (1 - OVERLAY * smooth) + colour * OVERLAY * smooth
    buffer = io.BytesIO()
    Image.fromarray(picture.round().astype(np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()
