"""Bytes of an image file -> upright pixels -> the uint8 crop that the network takes.

The one definition of the pixels, for training, evaluation and serving alike. A `Recipe` says how a
photograph is scaled and cropped; its id is stored in every model file, and what an id means never
changes: a better way of scaling gets a new id.

    ImageError(ValueError)
    +-- UnsupportedImage    no signature of a format that is read here
    +-- InvalidImage        a known signature, but the rest cannot be decoded
    +-- TooManyPixels       larger than the caller's limit, by the header, before decoding
"""

import io
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageChops, ImageCms

Pixels = NDArray[np.uint8]

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


@dataclass(frozen=True)
class Recipe:
    """How a photograph becomes the network's pixels (the paper, section 2).

    The shorter side is scaled to `resize` pixels and crops of `crop` x `crop` are taken from the
    central `resize` x `resize` square. Only the part that a crop needs is resampled, with Pillow's
    `resize(box=...)` and its antialiased bilinear filter; a pixel of any two crops of one picture
    that covers the same place has the same value. With `scaled_jpeg`, JPEG files are decoded at
    1/2, 1/4 or 1/8 of their size while the shorter side stays at `resize` or more.

    `whole` is torchvision's way, for weights that were trained with it: the whole picture is scaled, the
    longer side to a whole number of pixels, and the square begins at a whole number too.
    """

    id: str
    resize: int
    crop: int
    scaled_jpeg: bool
    whole: bool = False


RECIPES: Final = {
    recipe.id: recipe
    for recipe in [
        Recipe("bilinear-box-256-224-scaledjpeg", 256, 224, scaled_jpeg=True),
        Recipe("bilinear-whole-256-224", 256, 224, scaled_jpeg=False, whole=True),
    ]
}
TORCHVISION_RECIPE: Final = RECIPES["bilinear-whole-256-224"]
DEFAULT_RECIPE: Final = RECIPES["bilinear-box-256-224-scaledjpeg"]

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
_LARGEST_PROFILE: Final = (
    4_000_000  # bytes; print profiles have up to three million, and the last 16 are kept
)
_LONGEST: Final = 16  # times the shorter side, of a picture that is scaled as a whole
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
    """A decoded, upright picture: `image` has mode RGB, L, CMYK or LAB, `profile` is its ICC profile.

    `width` and `height` are those of the file after its EXIF rotation; `image` may be smaller, by
    the scaled decoding of JPEG.
    """

    image: Image.Image
    profile: bytes | None
    width: int
    height: int
    format: str


@dataclass(frozen=True)
class Header:
    """A file of a known format whose header has been read, and no more. Decoding it takes memory for
    `pixels`, at 3 to 18 bytes each by the format and the mode.
    """

    image: Image.Image
    format: str
    width: int
    height: int

    @property
    def pixels(self) -> int:
        if self.image.info.get("progressive"):  # its coefficients are held at full size
            return self.width * self.height
        return self.image.width * self.image.height


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
        image = Image.open(io.BytesIO(data), formats=[name])
        width, height = image.size
        if width * height > max_pixels:
            raise TooManyPixels(
                f"the image has {width}x{height} = {width * height} pixels; the limit is {max_pixels}"
            )
        if name == "JPEG" and recipe.scaled_jpeg:
            image.draft(None, (recipe.resize, recipe.resize))
    return Header(image, name, width, height)


def decode_pixels(header: Header) -> Picture:
    """Raises InvalidImage."""
    image, width, height = header.image, header.width, header.height
    with _corrupt_is_invalid(header.format):
        # Pillow turns TIFF upright itself.
        orientation = 1 if header.format == "TIFF" else _orientation(image)
        image.load()
        profile = image.info.get("icc_profile")
        upright = _drawable(image)
    if orientation in _TRANSPOSE:
        upright = upright.transpose(_TRANSPOSE[orientation])
        if orientation >= 5:
            width, height = height, width
    return Picture(upright, profile, width, height, header.format)


@contextmanager
def _corrupt_is_invalid(name: str) -> Iterator[None]:
    try:
        yield
    except (ImageError, MemoryError):
        raise
    except Exception as error:  # Pillow's decoders raise a dozen different types on broken files
        raise InvalidImage(f"the {name} file is corrupt or truncated: {_reason(error)}") from error


def square(picture: Picture, recipe: Recipe) -> Pixels:
    """The central square at the scale of the recipe: (resize, resize, 3) uint8 RGB in sRGB."""
    return _sample(picture, recipe, 0, 0, recipe.resize)


def centre_crop(picture: Picture, recipe: Recipe) -> Pixels:
    """(crop, crop, 3) uint8 RGB in sRGB: what is classified."""
    margin = (recipe.resize - recipe.crop) // 2
    return _sample(picture, recipe, margin, margin, recipe.crop)


def ten_crops(pixels: Pixels, recipe: Recipe) -> Pixels:
    """A `square` -> (10, crop, crop, 3): four corners and the centre, then the same mirrored.

    The paper, section 4.1: the prediction is the mean of the ten softmax outputs.
    """
    far, near = recipe.resize - recipe.crop, (recipe.resize - recipe.crop) // 2
    corners = [(0, 0), (0, far), (far, 0), (far, far), (near, near)]
    crops = np.stack([pixels[y : y + recipe.crop, x : x + recipe.crop] for y, x in corners])
    return np.concatenate([crops, crops[:, :, ::-1]])


def _sample(picture: Picture, recipe: Recipe, left: int, top: int, size: int) -> Pixels:
    """`size` x `size` pixels at (left, top) of the central square, resampled straight from the source."""
    image = picture.image
    if recipe.whole:
        crop = _sample_whole(image, recipe, left, top, size)
        return np.asarray(_to_srgb(crop, picture.profile))
    shorter = min(image.size)
    scale = shorter / recipe.resize
    x = (image.width - shorter) / 2 + left * scale
    y = (image.height - shorter) / 2 + top * scale
    # The upper bound is cut off because rounding can put it an ulp beyond the edge, which Pillow refuses.
    box = (x, y, min(x + size * scale, image.width), min(y + size * scale, image.height))
    crop = image.resize((size, size), Image.Resampling.BILINEAR, box=box)
    return np.asarray(_to_srgb(crop, picture.profile))


def _sample_whole(image: Image.Image, recipe: Recipe, left: int, top: int, size: int) -> Image.Image:
    """As torchvision's Resize and CenterCrop have it, to the pixel."""
    shorter = min(image.size)
    # A strip of one by a hundred thousand pixels would need gigabytes; no crop looks that far out.
    width, height = (min(side, _LONGEST * shorter) for side in image.size)
    x, y = (image.width - width) // 2, (image.height - height) // 2
    image = image.crop((x, y, x + width, y + height))
    scaled = [int(recipe.resize * side / shorter) for side in image.size]
    x, y = (round((side - recipe.resize) / 2) for side in scaled)
    whole = image.resize((scaled[0], scaled[1]), Image.Resampling.BILINEAR)
    return whole.crop((x + left, y + top, x + left + size, y + top + size))


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


def _to_srgb(image: Image.Image, profile: bytes | None) -> Image.Image:
    """RGB in sRGB. A profile that does not fit the picture is ignored, as browsers do."""
    if profile is None and image.mode == "LAB":
        return ImageCms.applyTransform(image, _lab_to_srgb()) or image
    if profile is not None and len(profile) <= _LARGEST_PROFILE:
        transform = _transform(profile, image.mode)
        if transform is not None:
            converted = ImageCms.applyTransform(image, transform)
            assert converted is not None  # None is for in-place only
            return converted
    return image.convert("RGB")


@lru_cache(maxsize=16)
def _transform(profile: bytes, mode: str) -> ImageCms.ImageCmsTransform | None:
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        return ImageCms.buildTransform(source, _srgb(), mode, "RGB")
    except (ImageCms.PyCMSError, OSError, ValueError, TypeError):
        return None


@lru_cache(maxsize=1)
def _lab_to_srgb() -> ImageCms.ImageCmsTransform:
    return ImageCms.buildTransform(ImageCms.createProfile("LAB"), _srgb(), "LAB", "RGB")


@lru_cache(maxsize=1)
def _srgb() -> ImageCms.ImageCmsProfile:
    return ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB"))


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
