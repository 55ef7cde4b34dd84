"""Decode an image file to the crops that the network takes."""

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
from contract.preprocess import centre_crop, square, ten_crops
from contract.recipe import Recipe
from service.device_crops import Crops

# Memory that decoding may take for each of MAX_PIXELS. A JPEG's coefficients take as much, and a phone's
# JPEG may have 64 million pixels. Files of formats that take more may have fewer pixels.
BYTES_PER_PIXEL: Final = 6
# What one core decodes in a second, about: bytes of memory filled, and pixels of a JPEG, all of whose
# coefficients are unpacked even if it is decoded at an eighth of its size.
_BYTES_PER_SECOND: Final = 300_000_000
_PIXELS_PER_SECOND: Final = 150_000_000
SLOW_S: Final = 0.1  # a picture that is estimated to take longer is decoded apart from others
Reserve = Callable[[Header], AbstractContextManager[None]]


@dataclass
class DecodedImage:
    """The crops (N, 224, 224, 3) uint8 of one picture, and facts about its file.

    `width` and `height` are the file's, after it was turned upright. `began` and `ended` are of
    `time.perf_counter`, which all processes of a machine share. `preprocessing` is the id of what made the
    crops, if that is not the model's recipe: see `service/imaging/gpu_decoder.py`.
    """

    crops: Crops
    width: int
    height: int
    format: str
    began: float
    ended: float
    profile_ignored: str | None = None  # why its colour profile is not used; its colours count as sRGB
    preprocessing: str | None = None


class SlowPicture(Exception):
    """The picture has to be decoded apart from ordinary ones; it takes about `seconds`."""

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
    """Decode an image file to its central crop (`crops` 1), or to ten crops. Raises ImageError.

    `reserve` is entered after the header is read and before the pixels are decoded; an error that it
    raises ends the work. Decoding takes at most `header.bytes` of memory, which is never more than
    BYTES_PER_PIXEL * `max_pixels`.
    """
    began = time.perf_counter()
    header = read_header(data, recipe, max_pixels)
    max_bytes = BYTES_PER_PIXEL * max_pixels
    if header.bytes > max_bytes:
        allowed = header.width * header.height * max_bytes // header.bytes
        raise TooManyPixels(
            f"the image has {header.width}x{header.height} pixels; of such {header.format} files at most "
            f"{allowed} pixels are decoded, because of the memory that they take"
        )
    with reserve(header):
        picture = decode_pixels(header)
        pixels = (
            centre_crop(picture, recipe)[None] if crops == 1 else ten_crops(square(picture, recipe), recipe)
        )
        width, height, kind = picture.width, picture.height, picture.format
        ignored = picture.profile_ignored
        del header, picture  # frees what was reserved for them
    return DecodedImage(pixels, width, height, kind, began, time.perf_counter(), profile_ignored=ignored)


def too_long(limit: float) -> InvalidImage:
    """Make the error of an image that takes longer than `limit` s to decode."""
    return InvalidImage(f"the image takes longer than {limit * 1000:g} ms to decode; send it smaller")


def shared_crops(shared: mmap, recipe: Recipe, crops: int) -> NDArray[np.uint8]:
    """View shared memory as an array (crops, recipe.crop, recipe.crop, 3) uint8."""
    shape = crops, recipe.crop, recipe.crop, 3
    return np.frombuffer(shared, np.uint8, math.prod(shape)).reshape(shape)
