"""Bytes of an image file -> an upright picture whose values can be averaged.

Every rule about formats, modes, EXIF, size limits and errors, for training, evaluation and serving alike.

    ImageError(ValueError)
    +-- UnsupportedImage    no signature of a format that is read here
    +-- InvalidImage        a known signature, but the rest cannot be decoded
    +-- TooManyPixels       larger than the caller's limit, by the header, before decoding
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final

import numpy as np
from PIL import ExifTags, Image, ImageChops

from contract import guard, icc, isobmff, tiff, webp
from contract.recipe import Recipe

guard.install()
# The limit is the caller's `max_pixels`, an error; Pillow's own is a warning about the same thing.
Image.MAX_IMAGE_PIXELS = None


class ImageError(ValueError):
    """A picture that cannot be used; the message says why and what to do."""


class UnsupportedImage(ImageError):
    pass


class InvalidImage(ImageError):
    pass


class TooManyPixels(ImageError):
    pass


_SIGNATURES: Final = [
    (b"\xff\xd8\xff", "JPEG"),
    (b"\x89PNG\r\n\x1a\n", "PNG"),
    (b"GIF87a", "GIF"),
    (b"GIF89a", "GIF"),
    (b"BM", "BMP"),
    (b"II*\0", "TIFF"),
    (b"MM\0*", "TIFF"),
]
_HEIF_BRANDS: Final = {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"}
# Memory while decoding: Pillow's picture has 4 bytes a pixel, and is copied once to put alpha over white.
# Codecs that work on whole pictures hold it in their own ways as well. Measured: docs/reliability.md.
_BYTES_PER_PIXEL: Final = {"WEBP": 16, "AVIF": 16, "HEIF": 16}  # the others: 8
_TRANSPOSE: Final = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def sniff(data: bytes) -> str | None:
    """The format by Pillow's name for it, from the first bytes alone; None if it is not read here."""
    for signature, name in _SIGNATURES:
        if data.startswith(signature):
            return name
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "WEBP"
    if data[4:8] == b"ftyp":
        # The box's length, then the major brand, a version, and the compatible brands.
        box = data[8 : min(int.from_bytes(data[:4], "big"), 256)]
        brands = {box[i : i + 4] for i in range(0, len(box), 4)}
        if brands & {b"avif", b"avis"}:
            return "AVIF"
        if brands & _HEIF_BRANDS:
            return "HEIF"
    return None


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
    if name == "HEIF" and not _heif_available():
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
        image: Any = Image.open(guard.Parts(data, name), formats=[name])  # of a class for each format
        width, height = image.size
        _require_size(width, height, max_pixels)
        wanted = _BYTES_PER_PIXEL.get(name, 8) * width * height + code_bytes
        # 16 bits in three planes, for what is coded beyond the picture and its alpha.
        wanted += 6 * max(0, coded_pixels - 2 * width * height)
        if name == "PNG":  # takes more time than memory: 8 for each 3 bytes that are unpacked
            wanted = max(8, guard.png_bits(data) // 3) * width * height
        if name == "JPEG":
            scans = guard.scans(data, image.fp.tell())
            guard.require_few_scans(scans, width * height)
            if recipe.scaled_jpeg:
                image.draft(None, (recipe.resize, recipe.resize))
            wanted = 8 * image.width * image.height
            if scans > 1:  # then the coefficients are held, and at full size
                wanted += 2 * len(image.getbands()) * width * height
        if name == "TIFF":
            coding = image.info.get("compression", "")
            tiff.require_plain_tiles(image.tile, image.tag_v2, width * height)
            tiff.require_own_data(data, image.tile, image.tag_v2, coding)
            wanted = tiff.decoded_bytes(image.tag_v2, width, height, coding)
    return Header(image, name, width, height, wanted)


def _require_size(width: int, height: int, max_pixels: int) -> None:
    if width * height > max_pixels:
        raise TooManyPixels(
            f"the image has {width}x{height} = {width * height} pixels; the limit is {max_pixels}"
        )


def decode_pixels(header: Header) -> Picture:
    """Raises InvalidImage."""
    image, width, height = header.image, header.width, header.height
    with _corrupt_is_invalid(header.format):
        # Pillow turns TIFF upright itself.
        orientation = 1 if header.format == "TIFF" else _orientation(image)
        image.load()
        profile = image.info.get("icc_profile")
        ignored = icc.fault(profile) if profile else None
        upright = _drawable(image)
    if orientation in _TRANSPOSE:
        upright = upright.transpose(_TRANSPOSE[orientation])
        if orientation >= 5:
            width, height = height, width
    return Picture(upright, None if ignored else profile, width, height, header.format, ignored)


@contextmanager
def _corrupt_is_invalid(name: str) -> Iterator[None]:
    try:
        yield
    except (ImageError, MemoryError):
        raise
    except Exception as error:  # Pillow's decoders raise a dozen different types on broken files
        raise InvalidImage(f"the {name} file is corrupt or truncated: {_reason(error)}") from error


def _drawable(image: Image.Image) -> Image.Image:
    """A mode whose values can be averaged: alpha over white, palettes resolved, 16 bits to 8."""
    if image.mode == "F":
        raise InvalidImage("floating-point pixels have no defined white; save it with 8 or 16 bits")
    if image.mode.startswith("I"):  # 16-bit grey, also in Pillow's 32-bit mode
        grey = _in_strips(image, "L", _eight_bits)
        # TIFF's photometric 0 counts from white; Pillow turns it round for 8 bits, not for 16.
        return ImageChops.invert(grey) if _white_is_zero(image) else grey
    if image.has_transparency_data:
        # A grey picture stays grey, so that its grey profile still fits.
        return _in_strips(image, "L" if image.mode in {"L", "LA", "La", "1"} else "RGB", _over_white)
    if image.mode in {"RGB", "L", "CMYK", "LAB"}:
        return image
    return image.convert("L" if image.mode == "1" else "RGB")


def _in_strips(image: Image.Image, mode: str, convert: Callable[[Image.Image], Image.Image]) -> Image.Image:
    """`convert` on a million pixels at a time: its intermediate copies of a large picture stay small."""
    whole = Image.new(mode, image.size)
    rows = max(1, 1_000_000 // image.width)
    for top in range(0, image.height, rows):
        box = (0, top, image.width, min(top + rows, image.height))
        strip = convert(image.crop(box))
        whole.paste(strip.getchannel(0) if mode == "L" else strip, box)
    return whole


def _over_white(strip: Image.Image) -> Image.Image:
    rgba = strip.convert("RGBA")
    white = Image.new("RGBA", rgba.size, "white")
    return Image.alpha_composite(white, rgba).convert("RGB")


def _eight_bits(strip: Image.Image) -> Image.Image:
    # 65535 / 257 = 255; Pillow's own convert() would saturate at 255 instead.
    levels = np.asarray(strip, dtype=np.int32)
    if levels.min() < 0 or levels.max() > 65535:
        raise InvalidImage("32-bit levels have no defined white; save it with 8 or 16 bits")
    key = strip.info.get("transparency")  # PNG's transparent level of grey
    if isinstance(key, int):
        levels = np.where(levels == key, 65535, levels)
    return Image.fromarray(((levels + 128) // 257).astype(np.uint8))


def _white_is_zero(image: Image.Image) -> bool:
    tags: Any = getattr(image, "tag_v2", {})
    return bool(tags.get(262) == 0)


def _orientation(image: Image.Image) -> int:
    """The EXIF orientation, 1 to 8. A broken EXIF block is no reason to refuse a sound picture."""
    try:
        value = image.getexif().get(ExifTags.Base.Orientation, 1)
    except Exception:  # the parser trusts the offsets that it reads, and fails in as many ways
        return 1
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


@lru_cache(maxsize=1)
def _heif_available() -> bool:
    try:
        import pillow_heif
    except ImportError:
        return False
    pillow_heif.register_heif_opener(thumbnails=False)
    return True


def _reason(error: Exception) -> str:
    """Pillow's words, first line only, without the repr of the buffer that some of them carry."""
    text = str(error).split("\n")[0].split(" <")[0].strip()
    return text[:120] or type(error).__name__
