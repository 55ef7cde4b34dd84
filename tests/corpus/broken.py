"""Damage intact pictures of every format and mode: truncate, flip bits, move pieces."""

import random
from collections.abc import Callable, Iterator
from functools import partial

from tests.corpus.case import Case
from tests.support.drawing.samples import samples

CUTS = 14
FLIPS = 16
_HEADER = 400  # bytes at the start, where most of the structure is


def cases() -> Iterator[Case]:
    names = _NAMES
    for name in names:
        yield Case(f"sound-{name}", partial(_sound, name))
        for index in range(CUTS):
            yield Case(f"cut-{index}-{name}", partial(_cut, name, index))
        for index in range(FLIPS):
            yield Case(f"flip-{index}-{name}", partial(_flip, name, index))
        for damage in (_zeros, _ones, _swapped, _doubled, _tail, _hole, _repeated):
            yield Case(f"{damage.__name__[1:]}-{name}", partial(_damaged, damage, name))
    for head in _FORMATS:
        for body in _FORMATS:
            if head != body:
                yield Case(f"head-of-{head}-on-{body}", partial(_transplant, head, body))


_NAMES = [
    *("jpeg-rgb", "jpeg-progressive", "jpeg-grey", "jpeg-cmyk", "jpeg-exif", "jpeg-mpo", "jpeg-icc"),
    *("png-1", "png-palette-key", "png-rgb-exif", "png-rgba-icc", "png-grey16-key", "png-animated"),
    *("gif", "gif-key", "gif-animated", "bmp-1", "bmp-palette", "bmp-rgb"),
    *("tiff-1", "tiff-palette", "tiff-rgb-lzw", "tiff-lab", "tiff-cmyk", "tiff-pages", "tiff-rgb16-big"),
    *("webp-lossy", "webp-rgba", "webp-icc", "webp-exif", "webp-animated"),
    *("avif-rgb", "avif-rgba", "avif-icc", "avif-exif", "heif-rgb", "heif-exif"),
]
_FORMATS = ("jpeg-rgb", "png-rgb", "gif", "bmp-rgb", "tiff-rgb-lzw", "webp-lossy", "avif-rgb", "heif-rgb")


def _sound(name: str) -> bytes:
    return samples()[name].data


def _cut(name: str, index: int) -> bytes:
    data = _sound(name)
    if index < CUTS // 2:
        return data[: 1 + index * 9]
    return data[: len(data) * (index - CUTS // 2 + 1) // (CUTS // 2 + 1)]


def _flip(name: str, index: int) -> bytes:
    """Flip one to eight bits, in the header or anywhere."""
    draw = random.Random(f"{name} {index}")
    data = bytearray(_sound(name))
    reach = min(len(data), _HEADER) if index % 2 else len(data)
    for _ in range(1 + index // 2):
        data[draw.randrange(reach)] ^= 1 << draw.randrange(8)
    return bytes(data)


def _damaged(damage: Callable[[bytes], bytes], name: str) -> bytes:
    return damage(_sound(name))


def _zeros(data: bytes) -> bytes:
    return data[: len(data) // 3] + bytes(len(data) - len(data) // 3)


def _ones(data: bytes) -> bytes:
    return data[: len(data) // 3] + b"\xff" * (len(data) - len(data) // 3)


def _swapped(data: bytes) -> bytes:
    third = len(data) // 3
    return data[:third] + data[2 * third :] + data[third : 2 * third]


def _doubled(data: bytes) -> bytes:
    return data + data


def _tail(data: bytes) -> bytes:
    return data + random.Random(len(data)).randbytes(100_000)


def _hole(data: bytes) -> bytes:
    return data[: len(data) // 2] + data[len(data) // 2 + 7 :]


def _repeated(data: bytes) -> bytes:
    return data[: len(data) // 2] + data[len(data) // 4 :]


def _transplant(head: str, body: str) -> bytes:
    return _sound(head)[:24] + _sound(body)[24:]
