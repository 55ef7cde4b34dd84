"""Decode the bytes of an image file to an upright picture, for training, evaluation and serving alike.

Holds the rules about formats, modes, EXIF and size limits. The errors raised are those of
contract/errors.py.
"""

import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

from PIL import ExifTags, Image

from contract.drawable import Box, drawable, whiten_around
from contract.errors import ImageError, InvalidImage, TooManyPixels, UnsupportedImage
from contract.formats import bmp, gif, icc, isobmff, jpeg, png, tiff, webp
from contract.formats.bmp import BmpFile
from contract.formats.gif import GifFile
from contract.formats.guard import BoundedFile, Exif
from contract.formats.heif import AvifFile, heif_reader
from contract.formats.jpeg import JpegFile
from contract.formats.png import PngFile
from contract.formats.rebind import UPRIGHT
from contract.formats.signatures import sniff
from contract.formats.tiff import TiffFile
from contract.formats.webp import WebPFile
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
    "orientation",
    "read_header",
    "sniff",
]

# Subclasses of Pillow's readers, with our limits.
_READERS: Final[dict[str, Any]] = {
    "JPEG": JpegFile,
    "PNG": PngFile,
    "WEBP": WebPFile,
    "GIF": GifFile,
    "TIFF": TiffFile,
    "BMP": BmpFile,
    "AVIF": AvifFile,
}
# Memory while decoding. Pillow's picture has 4 bytes a pixel, and is copied once to lay alpha over white:
# 8. The codecs named here hold the whole picture in buffers of their own as well.
_BYTES_PER_PIXEL: Final = {"WEBP": 16, "AVIF": 16, "HEIF": 16}


@dataclass(frozen=True)
class Picture:
    """A decoded, upright picture.

    `image` has mode RGB, L, CMYK or LAB. `profile` is its ICC profile; None where the file has none or it
    is ignored, and then `profile_ignored` says why. `width` and `height` are those of the file after its
    EXIF rotation, in pixels; `image` may be smaller, because JPEGs can be decoded at a smaller scale.
    """

    image: Image.Image
    profile: bytes | None
    width: int
    height: int
    format: str
    profile_ignored: str | None = None


@dataclass(frozen=True)
class Header:
    """An image file of which only the header has been read.

    Decoding it takes at most `bytes` of memory, without the file itself, and about one second per 300
    million of them. `width` and `height` are in pixels, before EXIF rotation.
    """

    image: Image.Image
    format: str
    width: int
    height: int
    bytes: int


def decode(data: bytes, recipe: Recipe, max_pixels: int) -> Picture:
    """Decode an image file.

    Raises UnsupportedImage, TooManyPixels (from the header, before decoding) or InvalidImage.
    """
    return decode_pixels(read_header(data, recipe, max_pixels))


def read_header(data: bytes, recipe: Recipe, max_pixels: int) -> Header:
    """Read the header of an image file, check its limits, and estimate what decoding it takes.

    Raises UnsupportedImage, TooManyPixels or InvalidImage.
    """
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
        code_bytes = coded_pixels = 0  # counted before Pillow opens the file, and with it a decoder
        if name == "WEBP":
            _require_size(*webp.size(data), max_pixels)
            code_bytes = webp.code_bytes(data)
        if name in {"AVIF", "HEIF"}:
            coded_pixels = isobmff.coded_pixels(data)
        image = _open(data, name)
        width, height = image.size
        _require_size(width, height, max_pixels)
        needed = _BYTES_PER_PIXEL.get(name, 8) * width * height + code_bytes
        # Three planes of 16 bits for each pixel that is coded beyond the picture and its alpha.
        needed += 6 * max(0, coded_pixels - 2 * width * height)
        if name == "PNG":
            needed = png.bytes_per_pixel(image, data) * width * height
        if name == "BMP":
            needed = max(needed, bmp.run_bytes(image, data))
        if name == "JPEG":
            needed = _jpeg_bytes(image, data, recipe)
        if name == "TIFF":
            coding = image.info.get("compression", "")
            tiff.require_known_planes(image)
            tiff.require_plain_tiles(image.tile, image.tag_v2, width * height)
            tiff.require_own_data(data, image.tag_v2, coding)
            needed = tiff.decoded_bytes(image.tag_v2, width, height, coding)
    return Header(image, name, width, height, needed)


def _require_size(width: int, height: int, max_pixels: int) -> None:
    if width * height > max_pixels:
        raise TooManyPixels(
            f"the image has {width}x{height} = {width * height} pixels; the limit is {max_pixels}"
        )


def _open(data: bytes, name: str) -> Any:  # each format has its own class
    if data[:4] == b"MM\0+":
        raise InvalidImage(
            "BigTIFF of big-endian order is not read; save it as TIFF or in little-endian order"
        )
    try:
        reader = heif_reader() if name == "HEIF" else _READERS[name]
        return reader(BoundedFile(data, name), "")
    except (SyntaxError, IndexError, TypeError, struct.error) as error:  # those that Image.open catches
        raise ValueError(
            tiff.UNSUPPORTED_SAMPLES if name == "TIFF" else "cannot identify image file"
        ) from error
    except OSError as error:
        if name == "BMP" and str(error).startswith("Unsupported BMP"):
            raise InvalidImage(f"{error}; save it with 24 bits a pixel, or as PNG") from error
        raise


def _jpeg_bytes(image: Any, data: bytes, recipe: Recipe) -> int:
    """Set the scale at which a JPEG is decoded, and return the bytes that decoding takes.

    Raises ValueError for too many scans.
    """
    pixels = image.width * image.height
    start = image.fp.tell()
    progressive = "progressive" in image.info
    scans = jpeg.scans(data, start, pixels, progressive)
    if recipe.scaled_jpeg:
        image.draft(None, (recipe.resize, recipe.resize))
    needed: int = 8 * image.width * image.height
    if progressive or scans > 1 or jpeg.buffers_coefficients(data, start, image.layers):
        # libjpeg keeps all coefficients, at full size.
        needed += 2 * image.layers * pixels
    return needed


def decode_pixels(header: Header) -> Picture:
    """Decode the pixels of a file whose header has been read. Raises InvalidImage."""
    image: Any = header.image
    width, height, name = header.width, header.height, header.format
    with _corrupt_is_invalid(name):
        data: bytes = image.fp.getvalue()
        box = _first_frame_box(image, name, data)
        info = dict(image.info)  # taken before the pixels: colour chunks after them in a PNG do not count
        image.load()
        turned = 1 if name == "TIFF" else orientation(image)  # tiff.TiffFile has applied it
        profile = info.get("icc_profile")
        ignored = icc.rejection_reason(profile) if profile else None
        profile = None if ignored else profile
        corrected = _corrected(image, name, data)
        gamma_profile = None
        if name == "PNG" and not profile:
            corrected, gamma_profile = png.in_srgb(corrected, info)
        upright = drawable(corrected)
        if box is not None:
            whiten_around(upright, box)
        if gamma_profile:
            profile = gamma_profile
            if upright.mode == "L":
                upright = upright.convert("RGB")
    if turned in UPRIGHT:
        upright = upright.transpose(UPRIGHT[turned])
        if turned >= 5:
            width, height = height, width
    return Picture(upright, profile, width, height, name, ignored)


def _first_frame_box(image: Any, name: str, data: bytes) -> Box | None:
    """Return the box of an animation's first frame on its canvas; None where it fills the canvas."""
    box = None
    if name == "GIF":
        box = gif.first_frame_box(image)
    if name == "WEBP":
        box = webp.first_frame_box(data)
    return None if box == (0, 0, *image.size) else box


def _corrected(image: Any, name: str, data: bytes) -> Any:
    """Correct a decoded picture where Pillow reads it differently from other programs."""
    if name == "PNG" and png.has_16bit_key(image):
        png.clear_16bit_key(image, data)
    if name == "BMP":
        return bmp.without_empty_alpha(image)
    return tiff.restore_samples(image) if name == "TIFF" else image


@contextmanager
def _corrupt_is_invalid(name: str) -> Iterator[None]:
    """Turn what Pillow raises for a broken file into InvalidImage."""
    try:
        yield
    except (ImageError, MemoryError):
        raise
    except Exception as error:  # Pillow's decoders raise a dozen different types on broken files
        raise InvalidImage(f"the {name} file is corrupt or truncated: {_reason(error)}") from error


def orientation(image: Image.Image) -> int:
    """Return the EXIF orientation, 1 to 8; that of XMP is ignored, as browsers do.

    A broken EXIF block counts as orientation 1: the picture itself may be intact.
    """
    if not (block := image.info.get("exif")):
        return 1
    exif = Exif()
    try:
        exif.load(block)
        value = exif.get(ExifTags.Base.Orientation, 1)
    except Exception:  # the parser trusts the offsets that it reads, and fails in many ways
        return 1
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


def _reason(error: Exception) -> str:
    """Return the first line of Pillow's message, without the repr of a buffer that some messages end in."""
    text = str(error).split("\n")[0].split(" <")[0].strip()
    return text[:120] or type(error).__name__
