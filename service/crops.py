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

from contract.picture import ImageError, InvalidImage, TooManyPixels, decode_pixels, read_header
from contract.preprocess import Pixels, centre_crop, square, ten_crops
from contract.recipe import RECIPES, Recipe
from service.memory import give_large_memory_back, limit_memory

# What decoding may take for each of MAX_PIXELS. Formats that take more may have fewer pixels.
BYTES_PER_PIXEL: Final = 8
PR_SET_PDEATHSIG: Final = 1  # of linux/prctl.h
Reserve = Callable[[int], AbstractContextManager[None]]


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


class Then(Hashable, Protocol):
    """What a thread that has made crops does with them and with those of others, up to `worth` images at a
    time: -> an answer for each. If it fails, they have none.
    """

    @property
    def worth(self) -> int: ...

    def __call__(self, made: list[Cropped]) -> Sequence[Any]: ...


def decode_crops(
    data: bytes,
    recipe: Recipe,
    max_pixels: int,
    crops: int,
    reserve: Reserve = lambda _bytes: nullcontext(),
) -> Cropped:
    """The central crop (`crops` 1), or ten. Raises ImageError.

    `reserve` is called with the bytes that decoding will take at most, 8 for each of `max_pixels` or fewer.
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
    with reserve(header.bytes):
        picture = decode_pixels(header)
        made = (
            [centre_crop(picture, recipe)]
            if crops == 1
            else list(ten_crops(square(picture, recipe), recipe))
        )
        width, height, kind = picture.width, picture.height, picture.format
        del header, picture  # their memory is what is reserved
    return Cropped(made, width, height, kind, began, time.perf_counter())


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
    try:
        made = decode_crops(data, RECIPES[job["recipe"]], job["max_pixels"], job["crops"])
    except ImageError as error:
        return {"bytes": 0, "error": type(error).__name__, "detail": str(error)}, b""
    except MemoryError:
        detail = "decoding the image takes more memory than it may have; send it smaller"
        return {"bytes": 0, "error": "InvalidImage", "detail": detail}, b""
    pixels = np.stack(made.crops).tobytes()
    shape = [len(made.crops), *made.crops[0].shape]
    facts = {"width": made.width, "height": made.height, "format": made.format}
    return {"bytes": len(pixels), "shape": shape, **facts, "began": made.began, "ended": made.ended}, pixels


def main() -> None:
    signal.signal(
        signal.SIGINT, signal.SIG_IGN
    )  # Ctrl-C in a terminal is for the service, which lets us finish
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    give_large_memory_back()
    limit_memory(int(sys.argv[1]))
    serve(sys.stdin.buffer, sys.stdout.buffer)


if __name__ == "__main__":
    main()
