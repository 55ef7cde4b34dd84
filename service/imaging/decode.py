"""The bytes of an image file -> the network's pixels."""

import math
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from mmap import mmap
from typing import Final

import numpy as np
from numpy.typing import NDArray

from contract.picture import Header, InvalidImage, TooManyPixels, decode_pixels, read_header
from contract.preprocess import Pixels, centre_crop, square, ten_crops
from contract.recipe import Recipe

# What decoding may take for each of MAX_PIXELS: the coefficients of a JPEG, of which a telephone's may have
# 64 million pixels. Formats that take more may have fewer pixels.
BYTES_PER_PIXEL: Final = 6
# What a core decodes in a second, about: memory that is filled, and pixels of a JPEG, all of whose
# coefficients are unpacked even where it is decoded at an eighth of its size.
_BYTES_PER_SECOND: Final = 300_000_000
_PIXELS_PER_SECOND: Final = 150_000_000
SLOW_S: Final = 0.1  # a picture that is estimated to take longer is decoded apart from ordinary ones
Reserve = Callable[[Header], AbstractContextManager[None]]


@dataclass
class DecodedImage:
    """The crops (224, 224, 3) uint8 of one picture. `width` and `height` are the file's, upright; the times
    are of `time.perf_counter`, which all processes of a machine share.
    """

    crops: list[Pixels]
    width: int
    height: int
    format: str
    began: float
    ended: float
    profile_ignored: str | None = None  # why its colours are taken as sRGB


class SlowPicture(Exception):
    """The picture is to be decoded apart from ordinary ones; `seconds` are estimated."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds


def estimated_seconds(header: Header) -> float:
    """Estimate what decoding the picture takes, in core-seconds, from its header alone."""
    return max(header.bytes / _BYTES_PER_SECOND, header.width * header.height / _PIXELS_PER_SECOND)


def decode_crops(
    data: bytes,
    recipe: Recipe,
    max_pixels: int,
    crops: int,
    reserve: Reserve = lambda _header: nullcontext(),
) -> DecodedImage:
    """The central crop (`crops` 1), or ten. Raises ImageError.

    `reserve` is called between the header and the pixels; what it raises ends the work. Decoding takes
    `header.bytes` at most, which are BYTES_PER_PIXEL for each of `max_pixels` or fewer.
    """
    began = time.perf_counter()
    header = read_header(data, recipe, max_pixels)
    room = BYTES_PER_PIXEL * max_pixels
    if header.bytes > room:
        most = header.width * header.height * room // header.bytes
        raise TooManyPixels(
            f"the image has {header.width}x{header.height} pixels; of such {header.format} files at most "
            f"{most} pixels are decoded, because of the memory that they take"
        )
    with reserve(header):
        picture = decode_pixels(header)
        made = (
            [centre_crop(picture, recipe)]
            if crops == 1
            else list(ten_crops(square(picture, recipe), recipe))
        )
        width, height, kind = picture.width, picture.height, picture.format
        ignored = picture.profile_ignored
        del header, picture  # their memory is what is reserved
    return DecodedImage(made, width, height, kind, began, time.perf_counter(), profile_ignored=ignored)


def too_long(limit: float) -> InvalidImage:
    """`limit` in seconds."""
    return InvalidImage(f"the image takes longer than {limit * 1000:g} ms to decode; send it smaller")


def shared_crops(shared: mmap, recipe: Recipe, crops: int) -> NDArray[np.uint8]:
    """(crops, recipe.crop, recipe.crop, 3) in the memory."""
    shape = crops, recipe.crop, recipe.crop, 3
    return np.frombuffer(shared, np.uint8, math.prod(shape)).reshape(shape)
