"""Write TIFFs of any layout; Pillow writes few of those that it reads."""

import struct
import zlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from tests.support.drawing.pictures import Array, Order

_KINDS = {3: "H", 4: "I", 16: "Q", 17: "q"}
Tag = tuple[int, int, Sequence[int]]  # number, type (3 SHORT, 4 LONG, 16 and 17 of 64 bits), values


def tiff_of_layout(
    pixels: Array,
    photometric: int,
    *more: Tag,
    order: Order = "<",
    planar: bool = False,
    big: bool = False,
    deflated: bool = False,
    tile: int = 0,
    predictor: bool = False,
    reversed_bits: bool = False,
    bits: int = 0,
) -> bytes:
    """Write unsigned pixels (height, width, samples) of 8, 16 or 32 bits.

    They lie in strips of 50 rows, or in tiles.

    With `bits`, only so many bits of each sample are written, packed. `more` adds or replaces tags.
    """
    height, width, samples = pixels.shape
    planes = [pixels[..., n : n + 1] for n in range(samples)] if planar else [pixels]
    pieces = [_packed(piece, order, predictor, bits) for plane in planes for piece in _pieces(plane, tile)]
    if deflated:
        pieces = [zlib.compress(piece) for piece in pieces]
    if reversed_bits:
        pieces = [piece.translate(bytes(int(f"{n:08b}"[::-1], 2) for n in range(256))) for piece in pieces]
    head = 16 if big else 8
    offsets = [head + sum(map(len, pieces[:n])) for n in range(len(pieces))]
    location_tags = (324, 325) if tile else (273, 279)
    tags: list[Tag] = [
        *((256, 4, [width]), (257, 4, [height]), (258, 3, [bits or 8 * pixels.itemsize] * samples)),
        *((259, 3, [8 if deflated else 1]), (262, 3, [photometric]), (277, 3, [samples])),
        *((284, 3, [2 if planar else 1]), (266, 3, [2 if reversed_bits else 1])),
        *(
            (location_tags[0], 16 if big else 4, offsets),
            (location_tags[1], 4, [len(piece) for piece in pieces]),
        ),
        *([(322, 4, [tile]), (323, 4, [tile])] if tile else [(278, 4, [50])]),
        *([(317, 3, [2])] if predictor else []),
        *more,
    ]
    return file_of(tags, b"".join(pieces), order, big)


def file_of(tags: Sequence[Tag], data: bytes, order: Order = "<", big: bool = False) -> bytes:
    """Write a TIFF: the header of 8 bytes (16 in a BigTIFF), `data`, then the tags and their values."""
    head, size, number = (16, 8, "Q") if big else (8, 4, "I")
    unique = sorted({tag[0]: tag for tag in tags}.values())
    at = head + len(data)
    values_at = at + (8 if big else 2) + (12 + 8 * big) * len(unique) + size
    entries = values = b""
    for tag, kind, numbers in unique:
        field = struct.pack(f"{order}{len(numbers)}{_KINDS[kind]}", *numbers)
        entries += struct.pack(f"{order}HH{number}", tag, kind, len(numbers))
        if len(field) <= size:
            entries += field.ljust(size, b"\0")
        else:
            entries += struct.pack(order + number, values_at + len(values))
            values += field
    byte_order = b"II" if order == "<" else b"MM"
    first = struct.pack(f"{order}HHHQ", 43, 8, 0, at) if big else struct.pack(f"{order}HI", 42, at)
    directory = struct.pack(order + ("Q" if big else "H"), len(unique)) + entries + bytes(size)
    return byte_order + first + data + directory + values


def _pieces(plane: Array, tile: int) -> list[Array]:
    height, width = plane.shape[:2]
    if not tile:
        return [plane[top : top + 50] for top in range(0, height, 50)]
    padded = np.pad(plane, ((0, -height % tile), (0, -width % tile), (0, 0)))
    return [
        padded[top : top + tile, left : left + tile]
        for top in range(0, height, tile)
        for left in range(0, width, tile)
    ]


def _packed(piece: Array, order: Order, predictor: bool, bits: int) -> bytes:
    if predictor:
        piece = np.concatenate([piece[:, :1], piece[:, 1:] - piece[:, :-1]], 1)
    if not bits:
        return piece.astype(piece.dtype.newbyteorder(order)).tobytes()
    rows: list[Any] = [piece.reshape(len(piece), -1).astype(">u2")]
    unpacked = np.unpackbits(rows[0].view(np.uint8).reshape(*rows[0].shape, 2), axis=2)[..., 16 - bits :]
    return np.packbits(unpacked.reshape(len(piece), -1), axis=1).tobytes()
