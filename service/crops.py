"""The bytes of an image file -> the network's pixels; and a process that does nothing else, for strangers'
pictures (`python -m service.crops`, started by service/decode_processes.py).

The process needs numpy and Pillow alone, so it is small and starts at once. It is asked on its standard
input, a line of JSON and then as many bytes as that says, and answers on its standard output with a line of
JSON, once the crops of a picture that could be decoded are in the memory that it shares.
"""

import ctypes
import json
import math
import signal
import sys
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from mmap import mmap
from typing import Any, BinaryIO, Final

import numpy as np
from numpy.typing import NDArray

from contract.picture import Header, ImageError, InvalidImage, TooManyPixels, decode_pixels, read_header
from contract.preprocess import Pixels, centre_crop, square, ten_crops
from contract.recipe import RECIPES, Recipe
from service.memory import give_large_memory_back, limit_memory
from service.stdio import drop_what_libraries_write

# What decoding may take for each of MAX_PIXELS: the coefficients of a JPEG, of which a telephone's may have
# 64 million pixels. Formats that take more may have fewer pixels.
BYTES_PER_PIXEL: Final = 6
PR_SET_PDEATHSIG: Final = 1  # of linux/prctl.h
# What a core decodes in a second, about: memory that is filled, and pixels of a JPEG, all of whose
# coefficients are unpacked even where it is decoded at an eighth of its size.
_BYTES_PER_SECOND: Final = 300_000_000
_PIXELS_PER_SECOND: Final = 150_000_000
SLOW_S: Final = 0.1  # a picture that is estimated to take longer is decoded apart from ordinary ones
Reserve = Callable[[Header], AbstractContextManager[None]]


@dataclass
class Cropped:
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
) -> Cropped:
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
    return Cropped(made, width, height, kind, began, time.perf_counter(), profile_ignored=ignored)


def too_long(limit: float) -> InvalidImage:
    """`limit` in seconds."""
    return InvalidImage(f"the image takes longer than {limit * 1000:g} ms to decode; send it smaller")


def serve(asked: BinaryIO, answers: BinaryIO, shared: mmap) -> None:
    """Until `asked` ends."""
    answers.write(b"ready\n")
    answers.flush()
    while line := asked.readline():
        job = json.loads(line)
        answers.write(json.dumps(_answer(job, asked.read(job["bytes"]), shared)).encode() + b"\n")
        answers.flush()


def _answer(job: dict[str, Any], data: bytes, shared: mmap) -> dict[str, Any]:
    def require_quick(header: Header) -> AbstractContextManager[None]:
        seconds = estimated_seconds(header)
        if seconds > SLOW_S and not job["slow"]:
            raise SlowPicture(seconds)
        return nullcontext()

    try:
        made = decode_crops(data, RECIPES[job["recipe"]], job["max_pixels"], job["crops"], require_quick)
    except SlowPicture as slow:
        return {"slow": slow.seconds}
    except ImageError as error:
        return {"error": type(error).__name__, "detail": str(error)}
    except MemoryError:
        detail = "decoding the image takes more memory than it may have; send it smaller"
        return {"error": "InvalidImage", "detail": detail}
    np.stack(made.crops, out=shared_crops(shared, RECIPES[job["recipe"]], job["crops"]))
    kept = ("width", "height", "format", "began", "ended", "profile_ignored")
    return {name: getattr(made, name) for name in kept}


def shared_crops(shared: mmap, recipe: Recipe, crops: int) -> NDArray[np.uint8]:
    """(crops, recipe.crop, recipe.crop, 3) in the memory."""
    shape = crops, recipe.crop, recipe.crop, 3
    return np.frombuffer(shared, np.uint8, math.prod(shape)).reshape(shape)


def main() -> None:
    signal.signal(
        signal.SIGINT, signal.SIG_IGN
    )  # Ctrl-C in a terminal is for the service, which lets us finish
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    drop_what_libraries_write()
    give_large_memory_back()
    memory, shared = map(int, sys.argv[1:])
    limit_memory(memory)
    serve(sys.stdin.buffer, sys.stdout.buffer, mmap(shared, 0))


if __name__ == "__main__":
    main()
