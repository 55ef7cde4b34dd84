"""Make small pictures with much other data: texts, segments, strips, frames."""

import struct
import zlib
from collections.abc import Callable
from functools import partial

from PIL import Image

from tests.corpus.files import (
    LONG,
    RATIONAL,
    Field,
    gif_of,
    progressive,
    segment,
    tiff_fields,
    tiff_of,
)
from tests.support.drawing.pictures import encode, png_chunk, swapped_profile
from tests.support.drawing.samples import SCENE

BODY = 19_900_000  # bytes, just below the default limit of a body


def _text(chunk: bytes, count: int, key: int = 1) -> bytes:
    texts = b"".join(png_chunk(chunk[:4], b"k%d" % (n * key) + chunk[4:]) for n in range(count))
    plain = encode(SCENE, "PNG")
    return plain[:33] + texts + plain[33:]


def _text_after(chunk: bytes, count: int) -> bytes:
    texts = b"".join(png_chunk(chunk[:4], b"k%d" % n + chunk[4:]) for n in range(count))
    plain = encode(SCENE, "PNG")
    return plain[:-12] + texts + plain[-12:]


_ZEROS = zlib.compress(bytes(1_000_000), 9)


_A = zlib.compress(b"a" * 999_000, 9)


_WIDE = zlib.compress("\U0001f600".encode() + b"a" * 999_000, 9)


def _jpeg_with(before: Callable[[], bytes]) -> bytes:
    plain = encode(SCENE, "JPEG")
    return plain[:20] + before() + plain[20:]  # after its first segment, JFIF


def _resources() -> bytes:
    resource = b"8BIM" + struct.pack(">HBBI", 1, 0, 0, 0)
    return segment(0xED, b"Photoshop 3.0\0" + resource * 5400) * 300


def _exif_rationals() -> bytes:
    values = 8 * 300 * 8000
    fields: list[Field] = [(274, RATIONAL, values // 8, b""), (296, LONG, 1, 2)]
    block = struct.pack("<2sHI", b"II", 42, 8)
    block += struct.pack("<H", 3) + struct.pack("<HHII", 274, 5, values // 8, 60)
    block += struct.pack("<HHII", 282, 5, values // 8, 60) + struct.pack("<HHII", 296, 4, 1, 2) + bytes(12)
    assert len(fields) == 2
    body = block + b"\1\0\0\0" * ((values + 60) // 4)
    return b"".join(segment(0xE1, b"Exif\0\0" + body[i : i + 65_000]) for i in range(0, len(body), 65_000))


def _exif_dribble() -> bytes:
    return segment(0xE1, b"Exif\0\0" + b"x" * 3000) * 6000


def _png_exif() -> bytes:
    values = struct.pack("<2I", 1, 1) * 2_000_000
    plain = encode(SCENE, "PNG")
    chunk = png_chunk(b"eXIf", tiff_of([(274, RATIONAL, 2_000_000, values)]))
    return plain[:33] + chunk + plain[33:]


def _webp_exif() -> bytes:
    values = struct.pack("<2I", 1, 1) * 2_000_000
    return encode(SCENE, "WEBP", exif=b"Exif\0\0" + tiff_of([(274, RATIONAL, 2_000_000, values)]))


def _avif_exif() -> bytes:
    values = struct.pack("<2I", 1, 1) * 2_000_000
    # Written under another tag, because Pillow would read tag 274 while writing.
    exif = tiff_of([(275, RATIONAL, 2_000_000, values)])
    entry = struct.pack("<HHI", 275, RATIONAL, 2_000_000)
    data = encode(SCENE, "AVIF", exif=exif, speed=10)
    assert entry in data
    return data.replace(entry, struct.pack("<HHI", 274, RATIONAL, 2_000_000))


def _webp_chunks() -> bytes:
    data = encode(SCENE, "WEBP", icc_profile=swapped_profile())
    data += b"ABCD\0\0\0\0" * ((BODY - len(data)) // 8)
    return data[:4] + struct.pack("<I", len(data) - 8) + data[8:]


def _tiff_rationals() -> bytes:
    values = struct.pack("<2I", 1, 1) * 2_000_000
    data = bytes(100)
    return tiff_of([*tiff_fields(10, 10, data), (282, RATIONAL, 2_000_000, values)], data)


def tiff_strips(count: int, width: int, rows: int, height: int) -> bytes:
    data = bytes(70_000)
    fields = [f for f in tiff_fields(width, height, data, rows=rows) if f[0] not in {273, 279}]
    offsets = struct.pack(f"<{count}I", *(8 + n % 7 for n in range(count)))
    sizes = struct.pack("<I", width * rows) * count
    return tiff_of([*fields, (273, LONG, count, offsets), (279, LONG, count, sizes)], data)


def _tiff_entries() -> bytes:
    data = bytes(100)
    return tiff_of([*tiff_fields(10, 10, data), *((n, LONG, 1, n) for n in range(400, 65_000))], data)


def _tiff_tiles(count: int) -> bytes:
    data = bytes(70_000)
    fields = [f for f in tiff_fields(100, 100, data, compression=32773) if f[0] not in {273, 278, 279}]
    offsets = struct.pack("<I", 8) * count
    sizes = struct.pack("<I", 60_000) * count
    tiles: list[Field] = [
        (322, LONG, 1, 16),
        (323, LONG, 1, 16),
        (324, LONG, count, offsets),
        (325, LONG, count, sizes),
    ]
    return tiff_of([*fields, *tiles], data)


def _tiff_tile(side: int) -> bytes:
    """Write a picture of one pixel in a tile of gigabytes."""
    data = zlib.compress(bytes(1_000_000))
    fields = [f for f in tiff_fields(1, 1, data, compression=8) if f[0] not in {273, 278, 279}]
    tiles: list[Field] = [
        (322, LONG, 1, side),
        (323, LONG, 1, side),
        (324, LONG, 1, 8),
        (325, LONG, 1, len(data)),
    ]
    return tiff_of([*fields, *tiles], data)


def bmp_runs(width: int, height: int, run: bytes) -> bytes:
    pixels = run * ((min(BODY, width * height * 2 // max(1, run[0])) - 1100) // len(run))
    header = struct.pack("<IiiHHIIiiII", 40, width, height, 1, 8, 1, len(pixels), 0, 0, 256, 0)
    palette = bytes(n % 251 for n in range(1024))
    offset = 14 + len(header) + len(palette)
    return struct.pack("<2sIHHI", b"BM", offset + len(pixels), 0, 0, offset) + header + palette + pixels


def _png_frames(count: int) -> bytes:
    plain = encode(Image.new("RGB", (16, 16)), "PNG")
    control = png_chunk(b"acTL", struct.pack(">II", count, 0))
    frames = b"".join(
        png_chunk(b"fcTL", struct.pack(">5I2H2B", n, 16, 16, 0, 0, 1, 1, 0, 0)) for n in range(count)
    )
    return plain[:33] + control + frames + plain[33:]


SMALL: dict[str, Callable[[], bytes]] = {
    "gif-frames": partial(gif_of, 64, 64, 100_000),
    "gif-comments": partial(gif_of, 64, 64, 1, b"!\xfe" + (b"\xff" + b"c" * 255) * 77_000 + b"\0"),
    "gif-short-comments": partial(gif_of, 64, 64, 1, b"!\xfe\1c\0" * 3_900_000),
    "gif-extensions": partial(gif_of, 64, 64, 1, b"!\xff\x0bNETSCAPE2.0\3\1\0\0\0" * 1_000_000),
    "gif-sub-blocks": partial(
        gif_of, 64, 64, 1, b"!\xf9\4\0\0\0\0\0" + b"!\1" + b"\1x" * 9_000_000 + b"\0"
    ),
    "png-ztxt": partial(_text, b"zTXt\0\0" + _ZEROS, 60),
    "png-ztxt-too-many": partial(_text, b"zTXt\0\0" + _ZEROS, 900),
    "png-ztxt-too-long": partial(_text, b"zTXt\0\0" + zlib.compress(bytes(300_000_000), 9), 1),
    "png-ztxt-behind": partial(_text_after, b"zTXt\0\0" + _ZEROS, 64),
    "png-itxt": partial(_text, b"iTXt\0\1\0\0\0" + _A, 60),
    "png-itxt-wide": partial(_text, b"iTXt\0\1\0\0\0" + _WIDE, 60),
    "png-text-long": partial(_text, b"tEXt\0" + b"t" * 19_000_000, 1),
    "png-text-many": partial(_text, b"tEXt\0x", 900_000),
    "png-text-many-behind": partial(_text_after, b"tEXt\0x", 900_000),
    "png-iccp": partial(_text, b"iCCP\0\0" + zlib.compress(bytes(300_000_000), 9), 1, 0),
    "png-unknown-chunks": lambda: _text(b"abCd", 1_300_000, 0),
    "png-empty-data": lambda: (
        encode(SCENE, "PNG")[:33] + png_chunk(b"IDAT", b"") * 1_600_000 + encode(SCENE, "PNG")[33:]
    ),
    "png-frames": partial(_png_frames, 400_000),
    "png-exif": _png_exif,
    "webp-exif": _webp_exif,
    "avif-exif": _avif_exif,
    "webp-chunks": _webp_chunks,
    "jpeg-segments": lambda: _jpeg_with(lambda: b"\xff\xe5\0\2" * (BODY // 4 - 5000)),
    "jpeg-comments": lambda: _jpeg_with(lambda: b"\xff\xfe\0\3c" * (BODY // 5 - 5000)),
    "jpeg-junk": lambda: _jpeg_with(lambda: bytes(BODY - 30_000)),
    "jpeg-fill": lambda: _jpeg_with(lambda: b"\xff" * (BODY - 30_000)),
    "jpeg-tables": lambda: _jpeg_with(lambda: segment(0xDB, b"\0" + b"\1" * 64) * 280_000),
    "jpeg-restart-interval": lambda: _jpeg_with(lambda: segment(0xDD, b"\0\1") * 3_000_000),
    "jpeg-large-segments": lambda: _jpeg_with(lambda: segment(0xEF, bytes(65_000)) * 300),
    "jpeg-resources": lambda: _jpeg_with(_resources),
    "jpeg-exif-rationals": lambda: _jpeg_with(_exif_rationals),
    "jpeg-exif-dribble": lambda: _jpeg_with(_exif_dribble),
    "jpeg-icc": lambda: _jpeg_with(
        lambda: b"".join(
            segment(0xE2, b"ICC_PROFILE\0" + bytes([n, 255]) + bytes(65_000)) for n in range(1, 256)
        )
    ),
    "jpeg-scans-small": partial(progressive, 640, 480, 200_000),
    "tiff-rationals": _tiff_rationals,
    "tiff-strips": partial(tiff_strips, 2_400_000, 1, 1, 2_400_000),
    "tiff-strips-again": partial(tiff_strips, 99_000, 255, 1, 250),
    "tiff-tiles": partial(_tiff_tiles, 2_000_000),
    "tiff-entries": _tiff_entries,
    "tiff-tile-of-30000": partial(_tiff_tile, 30_000),
    "tiff-tile-of-16000": partial(_tiff_tile, 16_000),
    "bmp-rle-runs": partial(bmp_runs, 3000, 3000, b"\1\7"),
    "bmp-rle-rows": partial(bmp_runs, 64, 150_000, b"\1\7" * 64 + b"\0\0"),
    "bmp-rle-steps": partial(bmp_runs, 10_000, 900, b"\0\3abc\0\1\5"),
}
