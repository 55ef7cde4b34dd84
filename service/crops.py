"""The bytes of an image file -> the network's pixels; and a process that does nothing else, for strangers'
pictures (`python -m service.crops`, started by service/decode_processes.py).

The process needs numpy and Pillow alone, so it is small and starts at once. It is asked on its standard
input and answers on its standard output; both ways a line of JSON, then as many bytes as that says.
"""

import ctypes
import json
import signal
import sys
import time
from collections.abc import Callable, Hashable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, BinaryIO, Final, Protocol

import numpy as np

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
    are of `time.perf_counter`, which all processes of a machine share. `answer` is given by a Then.
    """

    crops: list[Pixels]
    width: int
    height: int
    format: str
    began: float
    ended: float
    answer: Any = None
    profile_ignored: str | None = None  # why its colours are taken as sRGB


class SlowPicture(Exception):
    """The picture is to be decoded apart from ordinary ones; `seconds` are estimated."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds


class Then(Hashable, Protocol):
    """What a thread that has made crops does with them and with those of others, up to `worth` images at a
    time: -> an answer for each. If it fails, they have none.
    """

    @property
    def worth(self) -> int: ...

    def __call__(self, made: list[Cropped]) -> Sequence[Any]: ...


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


def serve(asked: BinaryIO, answers: BinaryIO) -> None:
    """Until `asked` ends."""
    answers.write(b"ready\n")
    answers.flush()
    while line := asked.readline():
        job = json.loads(line)
        head, pixels = _answer(job, asked.read(job["bytes"]))
        answers.write(json.dumps(head).encode() + b"\n" + pixels)
        answers.flush()


def _answer(job: dict[str, Any], data: bytes) -> tuple[dict[str, Any], bytes]:
    def require_quick(header: Header) -> AbstractContextManager[None]:
        seconds = estimated_seconds(header)
        if seconds > SLOW_S and not job["slow"]:
            raise SlowPicture(seconds)
        return nullcontext()

    try:
        made = decode_crops(data, RECIPES[job["recipe"]], job["max_pixels"], job["crops"], require_quick)
    except SlowPicture as slow:
        return {"bytes": 0, "slow": slow.seconds}, b""
    except ImageError as error:
        return {"bytes": 0, "error": type(error).__name__, "detail": str(error)}, b""
    except MemoryError:
        detail = "decoding the image takes more memory than it may have; send it smaller"
        return {"bytes": 0, "error": "InvalidImage", "detail": detail}, b""
    pixels = np.stack(made.crops).tobytes()
    shape = [len(made.crops), *made.crops[0].shape]
    kept = ("width", "height", "format", "began", "ended", "profile_ignored")
    facts = {name: getattr(made, name) for name in kept}
    return {"bytes": len(pixels), "shape": shape, "facts": facts}, pixels


def main() -> None:
    signal.signal(
        signal.SIGINT, signal.SIG_IGN
    )  # Ctrl-C in a terminal is for the service, which lets us finish
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    drop_what_libraries_write()
    give_large_memory_back()
    limit_memory(int(sys.argv[1]))
    serve(sys.stdin.buffer, sys.stdout.buffer)


if __name__ == "__main__":
    main()
