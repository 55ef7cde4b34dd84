"""The kernels of a first layer as a picture, as in the paper's Figure 3."""

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

A_ROW: Final = 12  # as in the figure
GAP: Final = 2  # white pixels around each


def kernels_picture(kernels: NDArray[Any], scale: int = 4) -> Image.Image:
    """Weights (N, 3, S, S) -> each kernel stretched to the whole range by itself, its pixels `scale` wide,
    12 in a row, in the order of the channels.
    """
    values = kernels.astype(np.float64).transpose(0, 2, 3, 1)
    low, high = (f(values, axis=(1, 2, 3), keepdims=True) for f in (np.min, np.max))
    levels = np.rint(255 * (values - low) / np.maximum(high - low, 1e-12)).astype(np.uint8)
    count, side = len(kernels), kernels.shape[2] * scale
    rows = -(-count // A_ROW)
    picture = Image.new("RGB", (A_ROW * (side + GAP) + GAP, rows * (side + GAP) + GAP), "white")
    for index, kernel in enumerate(levels):
        row, column = divmod(index, A_ROW)
        tile = Image.fromarray(kernel).resize((side, side), Image.Resampling.NEAREST)
        picture.paste(tile, (column * (side + GAP) + GAP, row * (side + GAP) + GAP))
    return picture
