"""Make files with as many pixels as the default limits allow.

`BIG` is the side of the largest square that most formats may have; a JPEG may have 64 million pixels.
"""

import struct
import zlib
from collections.abc import Callable
from functools import partial

import numpy as np
from PIL import Image

from tests.corpus.bombs.small import bmp_runs, tiff_strips
from tests.corpus.files import (
    LONG,
    gif_of,
    png_of,
    progressive,
    tiff_fields,
    tiff_of,
)
from tests.support.drawing.pictures import encode, png_chunk
from tests.support.drawing.samples import samples

BIG = 7000  # x 7000 = 49 million pixels


_PNG_KINDS = ((1, 0), (8, 0), (16, 0), (8, 2), (8, 3), (16, 6), (16, 2), (8, 4), (8, 6))  # depth, colour
_TIFF_KINDS = (
    *(("tiff_lzw", "RGB"), ("tiff_adobe_deflate", "CMYK"), ("packbits", "RGBA"), ("group4", "1")),
    *(("jpeg", "RGB"), ("zstd", "RGB"), ("lzma", "L"), ("tiff_lzw", "LAB")),
)


def _png(depth: int, colour: int, interlace: int) -> bytes:
    bits = depth * {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}[colour]
    chunks = [png_chunk(b"PLTE", bytes(768)), png_chunk(b"tRNS", bytes(256))] if colour == 3 else []
    return png_of(
        BIG,
        BIG,
        depth,
        colour,
        bytes(BIG * ((BIG * bits + 7) // 8 + 1) + 40_000),
        *chunks,
        interlace=interlace,
    )


def _png_paeth() -> bytes:
    """Write a PNG with the slowest filter and the most bytes per pixel."""
    row = b"\4" + bytes(range(1, 251)) * (BIG * 8 // 250)
    return png_of(BIG, BIG, 16, 6, row * BIG)


def _tiff_strip(samples: int, depth: int, compression: int) -> bytes:
    """Write a TIFF with one strip, which libtiff unpacks into a buffer of its own."""
    data = zlib.compress(bytes(BIG * BIG * samples * depth // 8), 1)
    fields = [f for f in tiff_fields(BIG, BIG, data, compression) if f[0] not in {258, 262, 277}]
    depths = struct.pack("<H", depth) * samples
    fields += [(258, 3, samples, depths), (262, LONG, 1, 2), (277, LONG, 1, samples)]
    return tiff_of([*fields, (338, 3, 1, b"\2\0\0\0")] if samples == 4 else fields, data)


def _tiff(compression: str, mode: str) -> bytes:
    return encode(Image.new(mode, (BIG, BIG)), "TIFF", compression=compression)


def _solid(kind: str, mode: str, side: int = BIG, **options: object) -> bytes:
    samples()  # registers HEIF
    return encode(Image.new(mode, (side, side)), kind, **options)


def _noise(kind: str, width: int, height: int, **options: object) -> bytes:
    """Encode noise, the slowest picture of its size to decode."""
    samples()
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return encode(Image.fromarray(pixels), kind, **options)


def _webp_frames(count: int) -> bytes:
    others = [Image.new("RGB", (64, 64), (n % 256, n // 256, 7)) for n in range(1, count)]
    return encode(
        Image.new("RGB", (64, 64)), "WEBP", save_all=True, append_images=others, lossless=True, method=0
    )


LARGE: dict[str, Callable[[], bytes]] = {
    **{
        f"png-depth{depth}-colour{colour}-interlace{interlace}": partial(_png, depth, colour, interlace)
        for depth, colour in _PNG_KINDS
        for interlace in (0, 1)
    },
    **{
        f"tiff-{compression}-{mode}": partial(_tiff, compression, mode) for compression, mode in _TIFF_KINDS
    },
    "gif": partial(gif_of, BIG, BIG),
    "gif-clear": lambda: gif_of(BIG, BIG, 1, b"!\xf9\4\1\0\0\0\0"),
    "webp-lossless": partial(_solid, "WEBP", "RGB", lossless=True, method=0),
    "webp-lossless-alpha": partial(_solid, "WEBP", "RGBA", lossless=True, method=0),
    "webp-lossy": partial(_solid, "WEBP", "RGB", method=0),
    "webp-lossy-alpha": partial(_solid, "WEBP", "RGBA", method=0),
    "webp-frames": partial(_webp_frames, 3000),
    "webp-noise": partial(_noise, "WEBP", 2500, 2500, lossless=True, method=0),
    "webp-noise-lossy": partial(_noise, "WEBP", 3000, 3000, method=0, quality=60),
    "avif": partial(_solid, "AVIF", "RGB", speed=10),
    "avif-alpha": partial(_solid, "AVIF", "RGBA", speed=10),
    "avif-444": partial(_solid, "AVIF", "RGB", speed=10, subsampling="4:4:4"),
    "avif-noise": partial(_noise, "AVIF", 3000, 3000, speed=10, quality=90),
    "heif": partial(_solid, "HEIF", "RGB", side=3000, quality=10),
    "heif-noise": partial(_noise, "HEIF", 1000, 1000, quality=80),
    "bmp": lambda: encode(Image.new("1", (BIG, BIG)), "BMP"),
    "bmp-rle": lambda: bmp_runs(BIG, BIG, b"\xff\7"),
    "bmp-noise": partial(_noise, "BMP", 2500, 2500),
    "png-noise": partial(_noise, "PNG", 2500, 2500),
    "jpeg": partial(_solid, "JPEG", "RGB", subsampling=0),
    "jpeg-of-a-telephone": partial(_solid, "JPEG", "RGB", side=8000, subsampling=0),
    "jpeg-of-a-telephone-progressive": partial(
        _solid, "JPEG", "RGB", side=8000, progressive=True, subsampling=0
    ),
    "jpeg-of-a-telephone-scans": partial(progressive, 8000, 8000, 17, 3),
    "jpeg-cmyk": partial(_solid, "JPEG", "CMYK"),
    "jpeg-progressive": partial(_solid, "JPEG", "RGB", progressive=True, subsampling=0),
    "jpeg-progressive-cmyk": partial(_solid, "JPEG", "CMYK", progressive=True),
    "jpeg-noise": partial(_noise, "JPEG", 4500, 4500, quality=80),
    "jpeg-noise-progressive": partial(_noise, "JPEG", 4500, 4500, quality=80, progressive=True),
    "jpeg-scans": partial(progressive, BIG, BIG, 5000),
    "jpeg-scans-60": partial(progressive, BIG, BIG, 60, 3),
    "png-paeth": _png_paeth,
    "tiff-strip-rgb16": partial(_tiff_strip, 3, 16, 8),
    "tiff-strip-rgba16": partial(_tiff_strip, 4, 16, 8),
    "tiff-strip-rgb8": partial(_tiff_strip, 3, 8, 8),
    "tiff-strips-over": partial(tiff_strips, 99_000, 5000, 2500, 5000),
}
