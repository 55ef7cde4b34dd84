"""Read GIFs of any size, and find where the first frame lies on the canvas.

Only the first frame is ever decoded, by contract/picture.py. The reader is Pillow's, without Pillow's own
limit on the size of a picture.
"""

from typing import Any

from PIL import GifImagePlugin

from contract.formats.rebind import UNCHECKED, with_globals


class GifFile(GifImagePlugin.GifImageFile):
    """Read a GIF of any size."""

    _seek = with_globals(GifImagePlugin.GifImageFile._seek, Image=UNCHECKED)


def first_frame_box(image: Any) -> tuple[int, int, int, int]:
    """Return the box (left, top, right, bottom) of the first frame on the canvas, in pixels.

    `image` is an opened `GifFile` whose pixels have not been loaded yet.
    """
    box: tuple[int, int, int, int] = image.tile[0].extents
    return box
