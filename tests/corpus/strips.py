"""Make TIFFs and PNGs whose bytes are unpacked repeatedly, or whose codings are expensive."""

import io
import lzma
import random
import struct
import zlib
from collections.abc import Callable, Iterator
from functools import cache, partial

from PIL import Image

from tests.corpus.case import PIXELS, Case
from tests.corpus.files import LONG, SHORT, Field, progressive, tiff_fields, tiff_of
from tests.support.drawing.pictures import encode, png_chunk
from tests.support.drawing.samples import SCENE

_SHARED = "bytes in all"
_JPEG, _DEFLATE, _LZMA = 7, 8, 34925


def cases() -> Iterator[Case]:
    for name, (make, expected) in _MAKERS.items():
        yield Case(f"strips-{name}", make, expected=expected)


@cache
def _low_noise(count: int) -> bytes:
    """Return the bytes that LZMA unpacks slowest for their size."""
    return random.Random(1).randbytes(count).translate(bytes(n & 15 for n in range(256)))


def _tiff(
    pieces: list[bytes],
    width: int,
    rows: int,
    compression: int,
    repeat: int = 1,
    samples: int = 3,
    tiled: bool = False,
    *more: Field,
) -> bytes:
    """Write a TIFF of strips of `rows` rows, or of tiles in a column, with the pieces `repeat` times."""
    data, offsets = b"".join(pieces), [8 + len(b"".join(pieces[:n])) for n in range(len(pieces))] * repeat
    count = len(offsets)
    skipped = {273, 277, 278, 279, 258, 262}
    fields = [f for f in tiff_fields(width, rows * count, data, compression) if f[0] not in skipped]
    fields += [(258, SHORT, samples, struct.pack(f"<{samples}H", *[8] * samples))]
    fields += [(262, SHORT, 1, 2 if samples == 3 else 1), (277, SHORT, 1, samples)]
    sizes = [len(piece) for piece in pieces] * repeat
    location_tags = [_longs(324, offsets), _longs(325, sizes), (322, LONG, 1, width), (323, LONG, 1, rows)]
    if not tiled:
        location_tags = [_longs(273, offsets), _longs(279, sizes), (278, LONG, 1, rows)]
    return tiff_of([*fields, *location_tags, *more], data)


def _longs(tag: int, values: list[int]) -> Field:
    return (
        tag,
        LONG,
        len(values),
        values[0] if len(values) == 1 else struct.pack(f"<{len(values)}I", *values),
    )


def _lzma(repeat: int) -> bytes:
    return _tiff([lzma.compress(_low_noise(7000 * 20 * 3), preset=0)], 7000, 20, _LZMA, repeat)


def _overlapping(count: int) -> bytes:
    """Write strips that each start one byte after the previous one and end with the data."""
    data = zlib.compress(bytes(3000)) + bytes(20_000)
    fields = [f for f in tiff_fields(100, 10 * count, data, _DEFLATE, rows=10) if f[0] not in {273, 279}]
    offsets = _longs(273, [8 + n for n in range(count)])
    return tiff_of([*fields, offsets, _longs(279, [len(data) - n for n in range(count)])], data)


def _tags_twice() -> bytes:
    """Write a tag twice: libtiff reads the first, Pillow the second."""
    data = _tiff([zlib.compress(bytes(1000 * 3 * 10))], 1000, 10, _DEFLATE, 500)
    return _appended(data, (279, LONG, 1, 1))


def _appended(data: bytes, field: Field) -> bytes:
    """Append an entry to the directory, which moves to the end of the file."""
    (at,) = struct.unpack_from("<I", data, 4)
    (count,) = struct.unpack_from("<H", data, at)
    entry = struct.pack("<HHII", *field)
    directory = struct.pack("<H", count + 1) + data[at + 2 : at + 2 + 12 * count] + entry + bytes(4)
    return data[:4] + struct.pack("<I", len(data)) + data[8:] + directory


def _jpeg_strips(scans: int, count: int, arithmetic: bool = False) -> bytes:
    piece = progressive(64, 64, scans)
    if arithmetic:
        piece = piece.replace(b"\xff\xc2", b"\xff\xca")
    return _tiff([piece] * count, 64, 64, _JPEG, samples=1)


def _jpeg_of(marker: int) -> bytes:
    return encode(SCENE, "JPEG").replace(b"\xff\xc0", bytes([0xFF, marker]), 1)


def _png(chunk: bytes, count: int) -> bytes:
    """Write a PNG with `count` chunks that hold a megabyte of zeros with a wrong checksum.

    `chunk` is the kind of the chunk, and its content before the zeros.
    """
    packed = bytearray(zlib.compress(bytes(1_000_000), 9))
    packed[-1] ^= 1
    plain = encode(SCENE, "PNG")
    return plain[:33] + png_chunk(chunk[:4], chunk[4:] + packed) * count + plain[33:]


def _saved(compression: str) -> bytes:
    buffer = io.BytesIO()
    SCENE.save(buffer, "TIFF", compression=compression)
    return buffer.getvalue()


_TEXT = "chunks of text and profiles"
_MAKERS: dict[str, tuple[Callable[[], bytes], str | None]] = {
    "lzma": (partial(_lzma, 1), PIXELS),
    "lzma-shared": (partial(_lzma, 350), _SHARED),
    "deflate-shared": (partial(_tiff, [zlib.compress(bytes(21_000))], 7000, 1, _DEFLATE, 5000), _SHARED),
    "tiles-shared": (
        partial(_tiff, [zlib.compress(bytes(768))], 16, 16, _DEFLATE, 50_000, 3, True),
        _SHARED,
    ),
    "jpeg-shared": (
        partial(_tiff, [encode(Image.new("L", (64, 64)), "JPEG")], 64, 64, _JPEG, 1000, 1),
        _SHARED,
    ),
    "overlapping": (partial(_overlapping, 50), _SHARED),
    "tags-twice": (_tags_twice, "a tag occurs twice"),
    "jpeg-scans": (partial(_jpeg_strips, 10, 5), None),
    "jpeg-many-scans": (partial(_jpeg_strips, 90, 5), "scans are too many"),
    "jpeg-arithmetic": (partial(_jpeg_strips, 5, 5, arithmetic=True), "arithmetic coding"),
    **{f"saved-{name}": (partial(_saved, name), PIXELS) for name in ("jpeg", "lzma", "zstd", "tiff_lzw")},
    **{
        f"jpeg-sof{n}": (partial(_jpeg_of, 0xC0 + n), f"SOF{n}")
        for n in (3, 5, 6, 7, 9, 10, 11, 13, 14, 15)
    },
    "png-profiles": (partial(_png, b"iCCPk\0\0", 2_000), _TEXT),
    "png-texts": (partial(_png, b"zTXtk\0\0", 2_000), _TEXT),
    "png-nameless-texts": (partial(_png, b"zTXt\0\0", 2_000), _TEXT),
    "png-international-texts": (partial(_png, b"iTXtk\0\1\0\0\0", 2_000), _TEXT),
    "png-texts-of-a-sound-file": (partial(_png, b"zTXtk\0\0", 50), PIXELS),
}
