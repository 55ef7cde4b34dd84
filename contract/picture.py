"""Bytes of an image file -> an upright picture whose values can be averaged.

Every rule about formats, modes, EXIF, size limits and errors, for training, evaluation and serving alike.

What is raised: contract/errors.py.
"""

import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

from PIL import ExifTags, Image

from contract.drawable import Box, drawable, whiten_around
from contract.errors import ImageError, InvalidImage, TooManyPixels, UnsupportedImage
from contract.formats import bmp, icc, isobmff, jpeg, png, tiff, tiff_layout, webp
from contract.formats.guard import Exif
from contract.formats.readers import heif_reader, open_picture
from contract.formats.rebind import UPRIGHT
from contract.formats.signatures import sniff
from contract.recipe import Recipe

__all__ = [
    "Header",
    "ImageError",
    "InvalidImage",
    "Picture",
    "TooManyPixels",
    "UnsupportedImage",
    "decode",
    "decode_pixels",
    "read_header",
    "sniff",
]

# Memory while decoding: Pillow's picture has 4 bytes a pixel, and is copied once to put alpha over white.
# Codecs that work on whole pictures hold it in their own ways as well. Measured: docs/reliability.md.
_BYTES_PER_PIXEL: Final = {"WEBP": 16, "AVIF": 16, "HEIF": 16}  # the others: 8


@dataclass(frozen=True)
class Picture:
    """A decoded, upright picture: `image` has mode RGB, L, CMYK or LAB, `profile` is its ICC profile, None
    where there is none or where it is ignored; `profile_ignored` then says why.

    `width` and `height` are those of the file after its EXIF rotation; `image` may be smaller, by
    the scaled decoding of JPEG.
    """

    image: Image.Image
    profile: bytes | None
    width: int
    height: int
    format: str
    profile_ignored: str | None = None


@dataclass(frozen=True)
class Header:
    """A file of a known format whose header has been read, and no more. Decoding it takes `bytes` of memory
    at most, the file itself not counted, and a second for about 300 million of them.
    """

    image: Image.Image
    format: str
    width: int
    height: int
    bytes: int


def decode(data: bytes, recipe: Recipe, max_pixels: int) -> Picture:
    """Raises UnsupportedImage, TooManyPixels (from the header, before decoding) or InvalidImage."""
    return decode_pixels(read_header(data, recipe, max_pixels))


def read_header(data: bytes, recipe: Recipe, max_pixels: int) -> Header:
    """Raises UnsupportedImage, TooManyPixels or InvalidImage."""
    name = sniff(data)
    if name is None:
        raise UnsupportedImage(
            "not an image in a known format; send JPEG, PNG, WebP, GIF, TIFF, BMP or AVIF"
        )
    if name == "HEIF" and heif_reader() is None:
        raise UnsupportedImage(
            "HEIC is read only where the server has the package pillow-heif (its extra `heif`); "
            "send the photograph as JPEG"
        )
    with _corrupt_is_invalid(name):
        code_bytes = coded_pixels = 0  # before Pillow opens the file, and with it a decoder
        if name == "WEBP":
            _require_size(*webp.size(data), max_pixels)
            code_bytes = webp.code_bytes(data)
        if name in {"AVIF", "HEIF"}:
            coded_pixels = isobmff.coded_pixels(data)
        image = _open(data, name)
        width, height = image.size
        _require_size(width, height, max_pixels)
        wanted = _BYTES_PER_PIXEL.get(name, 8) * width * height + code_bytes
        # 16 bits in three planes, for what is coded beyond the picture and its alpha.
        wanted += 6 * max(0, coded_pixels - 2 * width * height)
        if name == "PNG":
            wanted = png.bytes_per_pixel(image, data) * width * height
        if name == "BMP":
            wanted = max(wanted, bmp.run_bytes(image, data))
        if name == "JPEG":
            wanted = _jpeg_bytes(image, data, recipe)
        if name == "TIFF":
            coding = image.info.get("compression", "")
            tiff_layout.require_known_planes(image)
            tiff.require_plain_tiles(image.tile, image.tag_v2, width * height)
            tiff.require_own_data(data, image.tag_v2, coding)
            wanted = tiff.decoded_bytes(image.tag_v2, width, height, coding)
    return Header(image, name, width, height, wanted)


def _require_size(width: int, height: int, max_pixels: int) -> None:
    if width * height > max_pixels:
        raise TooManyPixels(
            f"the image has {width}x{height} = {width * height} pixels; the limit is {max_pixels}"
        )


def _open(data: bytes, name: str) -> Any:  # of a class for each format
    if data[:4] == b"MM\0+":
        raise InvalidImage(
            "BigTIFF of big-endian order is not read; save it as TIFF or in little-endian order"
        )
    try:
        return open_picture(data, name)
    except (SyntaxError, IndexError, TypeError, struct.error) as error:  # as Image.open has it
        raise ValueError(tiff_layout.UNREAD if name == "TIFF" else "cannot identify image file") from error
    except OSError as error:
        if name == "BMP" and str(error).startswith("Unsupported BMP"):
            raise InvalidImage(f"{error}; save it with 24 bits a pixel, or as PNG") from error
        raise


def _jpeg_bytes(image: Any, data: bytes, recipe: Recipe) -> int:
    """Set the scale at which a JPEG is decoded. -> the bytes that it takes. Raises ValueError."""
    pixels = image.width * image.height
    start = image.fp.tell()
    progressive = "progressive" in image.info
    scans = jpeg.scans(data, start, pixels, progressive)
    if recipe.scaled_jpeg:
        image.draft(None, (recipe.resize, recipe.resize))
    wanted: int = 8 * image.width * image.height
    if progressive or scans > 1 or jpeg.holds_coefficients(data, start, image.layers):  # at full size
        wanted += 2 * image.layers * pixels
    return wanted


def decode_pixels(header: Header) -> Picture:
    """Raises InvalidImage."""
    image: Any = header.image
    width, height, name = header.width, header.height, header.format
    with _corrupt_is_invalid(name):
        data: bytes = image.fp.getvalue()
        box = _first_frame(image, name, data)
        info = dict(image.info)  # before the pixels: what a PNG says of its colours behind them is too late
        image.load()
        orientation = 1 if name == "TIFF" else _orientation(image)  # a TIFF is upright by now
        profile = info.get("icc_profile")
        ignored = icc.fault(profile) if profile else None
        profile = None if ignored else profile
        corrected = _corrected(image, name, data)
        made = None
        if name == "PNG" and not profile:
            corrected, made = png.in_srgb(corrected, info)
        upright = drawable(corrected)
        if box is not None:
            whiten_around(upright, box)
        if made:
            profile = made
            if upright.mode == "L":
                upright = upright.convert("RGB")
    if orientation in UPRIGHT:
        upright = upright.transpose(UPRIGHT[orientation])
        if orientation >= 5:
            width, height = height, width
    return Picture(upright, profile, width, height, name, ignored)


def _first_frame(image: Any, name: str, data: bytes) -> Box | None:
    """Where the first picture of an animation lies on its canvas, if it does not fill it."""
    box = None
    if name == "GIF":
        box = image.tile[0].extents
    if name == "WEBP":
        box = webp.first_frame(data)
    return None if box == (0, 0, *image.size) else box


def _corrected(image: Any, name: str, data: bytes) -> Any:
    """Make of a decoded picture what other programs than Pillow see in it."""
    if name == "PNG" and png.has_key16(image):
        png.clear_key16(image, data)
    if name == "BMP":
        return bmp.opaque(image)
    return tiff_layout.decoded(image) if name == "TIFF" else image


@contextmanager
def _corrupt_is_invalid(name: str) -> Iterator[None]:
    try:
        yield
    except (ImageError, MemoryError):
        raise
    except Exception as error:  # Pillow's decoders raise a dozen different types on broken files
        raise InvalidImage(f"the {name} file is corrupt or truncated: {_reason(error)}") from error


def _orientation(image: Image.Image) -> int:
    """The EXIF orientation, 1 to 8; that of XMP is ignored, as browsers do.

    A broken EXIF block is no reason to refuse a sound picture.
    """
    if not (block := image.info.get("exif")):
        return 1
    exif = Exif()
    try:
        exif.load(block)
        value = exif.get(ExifTags.Base.Orientation, 1)
    except Exception:  # the parser trusts the offsets that it reads, and fails in as many ways
        return 1
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


def _reason(error: Exception) -> str:
    """Pillow's words, first line only, without the repr of the buffer that some of them carry."""
    text = str(error).split("\n")[0].split(" <")[0].strip()
    return text[:120] or type(error).__name__
