"""Make files whose headers claim wrong sizes, and files that are valid in two formats."""

import io
import struct
import zipfile
from collections.abc import Iterator
from functools import partial

from PIL import Image

from tests.corpus.case import Case
from tests.corpus.files import gif_of, tiff_fields, tiff_of
from tests.support.drawing.pictures import encode, png_chunk
from tests.support.drawing.samples import SCENE, samples

# Sizes that are far too large, and sizes just below the default limit.
_CLAIMS = (
    (100_000, 100_000),
    (2**31 - 1, 2**31 - 1),
    (7071, 7071),
    (8185, 8185),
    (65535, 65535),
    (16383, 16383),
    (1, 2**31 - 1),
)


def cases() -> Iterator[Case]:
    for width, height in _CLAIMS:
        for claim in (_png, _bmp, _jpeg, _gif, _tiff, _webp, _webp_canvas, _avif):
            yield Case(f"claims-{width}x{height}{claim.__name__}", partial(claim, width, height))
    for name, data in _polyglots().items():
        yield Case(f"polyglot-{name}", data)
    for name, bare in _NO_PICTURES.items():
        yield Case(f"no-picture-{name}", partial(bytes, bare))


_NO_PICTURES = {
    "one-byte": b"\xff",
    "zeros": bytes(1_000_000),
    "svg": b"<svg xmlns='http://www.w3.org/2000/svg' width='9' height='9'/>",
    "svg-entities": b"<!DOCTYPE s [<!ENTITY a 'aaaa'>"
    + b"<!ENTITY b '&a;&a;&a;&a;'>" * 99
    + b"]><svg>&b;</svg>",
    "html": b"<html><script>alert(1)</script>",
    "eps": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n(/etc/passwd) run\n",
    "pdf": b"%PDF-1.7\n1 0 obj<</Type/Catalog>>endobj\n",
    "zip": b"PK\3\4" + bytes(30),
    "psd": b"8BPS\0\1" + bytes(30),
    "ico": b"\0\0\1\0\1\0" + bytes(30),
    "wmf": b"\xd7\xcd\xc6\x9a" + bytes(30),
    "jp2": b"\0\0\0\x0cjP  \r\n\x87\n" + bytes(30),
    "jxl": b"\xff\x0a" + bytes(30),
    "fits": b"SIMPLE  =                    T" + bytes(3000),
    "mp4": b"\0\0\0\x18ftypmp42\0\0\0\0isommp42" + bytes(100),
    "python": b"__import__('os').system('id')",
    "url": b"http://169.254.169.254/latest/meta-data/",
}


def _png(width: int, height: int) -> bytes:
    header = png_chunk(b"IHDR", struct.pack(">II5B", width, height, 8, 6, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + png_chunk(b"IDAT", b"\x78\x9c\x63\0\0")


def _bmp(width: int, height: int) -> bytes:
    data = bytearray(encode(Image.new("RGB", (4, 4)), "BMP"))
    data[18:26] = struct.pack("<ii", width, height)
    return bytes(data)


def _jpeg(width: int, height: int) -> bytes:
    data = bytearray(encode(SCENE, "JPEG", progressive=True))
    at = data.index(b"\xff\xc2") + 5
    data[at : at + 4] = struct.pack(">HH", min(height, 65535), min(width, 65535))
    return bytes(data)


def _gif(width: int, height: int) -> bytes:
    """Make a GIF with a small screen and a large frame."""
    data = bytearray(gif_of(8, 8))
    at = data.index(b",") + 5
    data[at : at + 4] = struct.pack("<HH", min(width, 65535), min(height, 65535))
    return bytes(data)


def _tiff(width: int, height: int) -> bytes:
    return tiff_of(tiff_fields(width, height, b"abcd"), b"abcd")


def _webp(width: int, height: int) -> bytes:
    data = bytearray(encode(Image.new("RGB", (8, 8)), "WEBP", lossless=True))
    data[21:25] = struct.pack("<I", (min(width, 16384) - 1) | (min(height, 16384) - 1) << 14)
    return bytes(data)


def _webp_canvas(width: int, height: int) -> bytes:
    data = bytearray(encode(Image.new("RGB", (8, 8)), "WEBP", lossless=True, icc_profile=b"x" * 200))
    assert data[12:16] == b"VP8X"
    data[24:30] = (min(width, 1 << 24) - 1).to_bytes(3, "little") + (min(height, 1 << 24) - 1).to_bytes(
        3, "little"
    )
    return bytes(data)


def _avif(width: int, height: int) -> bytes:
    data = bytearray(encode(Image.new("RGB", (16, 16)), "AVIF", speed=10))
    at = data.index(b"ispe") + 8
    data[at : at + 8] = struct.pack(">II", width, height)
    return bytes(data)


def _polyglots() -> dict[str, partial[bytes]]:
    def with_zip(name: str) -> bytes:
        archive = io.BytesIO()
        with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as file:
            file.writestr(
                zipfile.ZipInfo("bomb"), bytes(10_000_000), zipfile.ZIP_DEFLATED
            )  # dated 1980, so that it is reproducible
        return samples()[name].data + archive.getvalue()

    def script() -> bytes:
        """Make a GIF whose width and height open a JavaScript comment."""
        data = gif_of(16, 16)
        return data[:6] + b"/*" + data[8:-1] + b"*/=1;alert(1);"

    def inside_pdf() -> bytes:
        return (
            b"%PDF-1.4\n1 0 obj<</Subtype/Image>>stream\n" + samples()["jpeg-rgb"].data + b"\nendstream\n"
        )

    def pdf_inside() -> bytes:
        data = samples()["jpeg-rgb"].data
        return data[:2] + b"\xff\xfe\x00\x20%PDF-1.4 1 0 obj<<>>endobj    " + data[2:]

    def php(name: str) -> bytes:
        return samples()[name].data + b"<?php system($_GET['c']); ?>"

    def thumbnail() -> bytes:
        return encode(
            SCENE,
            "JPEG",
            exif=b"Exif\0\0" + tiff_of(tiff_fields(9, 9, b"x")) + samples()["gif"].data[:9000],
        )

    return {
        "jpeg-zip": partial(with_zip, "jpeg-rgb"),
        "png-zip": partial(with_zip, "png-rgb"),
        "gif-zip": partial(with_zip, "gif"),
        "gif-script": partial(script),
        "pdf-jpeg": partial(inside_pdf),
        "jpeg-pdf": partial(pdf_inside),
        "jpeg-php": partial(php, "jpeg-rgb"),
        "bmp-php": partial(php, "bmp-rgb"),
        "jpeg-tiff-gif": partial(thumbnail),
    }
