"""Write image files byte by byte that no library would write."""

import struct
import zlib
from collections.abc import Sequence

from PIL import Image

from tests.support.drawing.pictures import encode, png_chunk

SHORT, LONG, RATIONAL, UNDEFINED = 3, 4, 5, 7
_SIZES = {1: 1, 2: 1, SHORT: 2, LONG: 4, RATIONAL: 8, UNDEFINED: 1, 12: 8}
Field = tuple[int, int, int, int | bytes]  # tag, type, count, value or the values' bytes


def ifd(fields: Sequence[Field], at: int, following: int = 0) -> bytes:
    """Write a little-endian TIFF directory at offset `at`, followed by the values that do not fit in it."""
    entries, values = b"", b""
    values_at = at + 2 + 12 * len(fields) + 4
    for tag, kind, count, value in sorted(fields, key=lambda field: field[0]):
        if isinstance(value, int):
            entries += struct.pack("<HHII", tag, kind, count, value)
        elif len(value) <= 4 and count * _SIZES[kind] <= 4:
            entries += struct.pack("<HHI4s", tag, kind, count, value)
        else:
            entries += struct.pack("<HHII", tag, kind, count, values_at + len(values))
            values += value
    return struct.pack("<H", len(fields)) + entries + struct.pack("<I", following) + values


def tiff_of(fields: Sequence[Field], data: bytes = b"", following: int = 0) -> bytes:
    """Write a little-endian TIFF with `data` at offset 8, followed by the directory."""
    at = 8 + len(data)
    return struct.pack("<2sHI", b"II", 42, at) + data + ifd(fields, at, following)


def tiff_fields(width: int, height: int, data: bytes, compression: int = 1, **changes: int) -> list[Field]:
    """Return the tags of an 8-bit grey TIFF with one strip at offset 8."""
    rows, photometric = changes.get("rows", height), changes.get("photometric", 1)
    values = {256: width, 257: height, 258: 8, 259: compression, 262: photometric, 277: 1, 278: rows}
    values |= {273: 8, 279: len(data)}
    return [(tag, LONG, 1, value) for tag, value in values.items()]


def png_of(
    width: int, height: int, depth: int, colour: int, raw: bytes, *chunks: bytes, **options: int
) -> bytes:
    """Write a PNG of `raw` rows with filter bytes, and `chunks` before them; `interlace=1` is Adam7."""
    header = struct.pack(">II5B", width, height, depth, colour, 0, 0, options.get("interlace", 0))
    data = png_chunk(b"IDAT", zlib.compress(raw, 9))
    return b"".join(
        [b"\x89PNG\r\n\x1a\n", png_chunk(b"IHDR", header), *chunks, data, png_chunk(b"IEND", b"")]
    )


def segment(marker: int, body: bytes) -> bytes:
    return struct.pack(">BBH", 0xFF, marker, len(body) + 2) + body


def progressive(width: int, height: int, scans: int, components: int = 1) -> bytes:
    """Write a progressive grey JPEG: the DC scans, then `scans` empty passes over all coefficients."""
    blocks = -(-width // 8) * -(-height // 8)
    frame = struct.pack(">BHHB", 8, height, width, components)
    frame += b"".join(bytes([1 + n, 0x11, 0]) for n in range(components))
    table = bytes([1] + [0] * 15)  # one code of one bit
    parts = [b"\xff\xd8", segment(0xDB, b"\0" + b"\1" * 64), segment(0xC2, frame)]
    parts += [segment(0xC4, b"\x00" + table + b"\x00"), segment(0xC4, b"\x10" + table + b"\xe0")]
    # Symbol 0xE0: the next 16384 + (14 bits) blocks have no further coefficients.
    runs = "010101010101010" * -(-blocks // (16384 + 0b10101010101010))
    runs = runs.ljust(-(-len(runs) // 8) * 8, "1")
    empty_pass = int(runs, 2).to_bytes(len(runs) // 8, "big")
    for n in range(components):
        parts += [segment(0xDA, bytes([1, 1 + n, 0, 0, 0, 0])), bytes(-(-blocks // 8))]
    for n in range(scans):
        parts += [segment(0xDA, bytes([1, 1 + n % components, 0, 1, 63, 0])), empty_pass]
    return b"".join([*parts, b"\xff\xd9"])


def gif_of(width: int, height: int, frames: int = 1, head: bytes = b"") -> bytes:
    """Write a GIF of one colour; `head` holds extensions before the first frame."""
    data = encode(Image.new("P", (width, height)), "GIF")
    start = 13 + (3 << (data[10] & 7) + 1 if data[10] & 0x80 else 0)
    return data[:start] + head + data[start:-1] * frames + b";"
