"""Arrange a first layer's kernels as a picture, like Figure 3 of the paper."""

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

KERNELS_PER_ROW: Final = 12  # as in the figure
GAP_PIXELS: Final = 2  # white, around each kernel


def kernels_picture(kernels: NDArray[Any], scale: int = 4) -> Image.Image:
    """Draw weights of shape (N, 3, S, S), 12 kernels in a row, in channel order.

    Each kernel is stretched to the range 0 to 255 by itself; its pixels are `scale` pixels wide.
    """
    values = kernels.astype(np.float64).transpose(0, 2, 3, 1)
    low, high = (f(values, axis=(1, 2, 3), keepdims=True) for f in (np.min, np.max))
    levels = np.rint(255 * (values - low) / np.maximum(high - low, 1e-12)).astype(np.uint8)
    count, side = len(kernels), kernels.shape[2] * scale
    rows = -(-count // KERNELS_PER_ROW)
    picture = Image.new(
        "RGB",
        (KERNELS_PER_ROW * (side + GAP_PIXELS) + GAP_PIXELS, rows * (side + GAP_PIXELS) + GAP_PIXELS),
        "white",
    )
    for index, kernel in enumerate(levels):
        row, column = divmod(index, KERNELS_PER_ROW)
        tile = Image.fromarray(kernel).resize((side, side), Image.Resampling.NEAREST)
        picture.paste(
            tile, (column * (side + GAP_PIXELS) + GAP_PIXELS, row * (side + GAP_PIXELS) + GAP_PIXELS)
        )
    return picture
