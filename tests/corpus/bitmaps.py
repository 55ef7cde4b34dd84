"""Write BMP files with any header."""

import struct

import numpy as np

from tests.support.drawing.pictures import Array


def bmp_of(
    width: int,
    height: int,
    bits: int,
    compression: int,
    pixels: bytes,
    masks: bytes = b"",
    header: int = 40,
    palette: bytes = b"",
) -> bytes:
    """Write a BMP whose header has `header` bytes.

    From 52 bytes on it has the colour masks, from 56 on the alpha mask too.
    """
    colours = len(palette) // 4
    head = struct.pack("<IiiHHII", header, width, height, 1, bits, compression, len(pixels))
    head += struct.pack("<iiII", 0, 0, colours, 0)
    head = (head + masks).ljust(header, b"\0") if header > 40 else head + masks[:12]
    at = 14 + len(head) + len(palette)
    return struct.pack("<2sIHHI", b"BM", at + len(pixels), 0, 0, at) + head + palette + pixels


def bmp_of_runs(width: int, height: int, runs: bytes, palette: bytes, bits: int = 8) -> bytes:
    """Write a BMP in RLE8, or RLE4 with `bits` 4."""
    return bmp_of(width, height, bits, {8: 1, 4: 2}[bits], runs, palette=palette)


def short_runs(levels: Array, grey: bool) -> bytes:
    """Write an RLE8 BMP with runs of one pixel; the palette is grey, from white to black unless `grey`."""
    pairs = np.stack([np.ones_like(levels), levels], 2)[::-1]
    rows = b"".join(row.tobytes() + b"\0\0" for row in pairs)
    palette = bytes(value for n in range(256) for value in ([n if grey else 255 - n] * 3 + [0]))
    return bmp_of_runs(levels.shape[1], levels.shape[0], rows + b"\0\1", palette)
