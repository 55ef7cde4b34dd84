"""An upright picture -> the uint8 crops that the network takes, in sRGB, as a recipe says.

The one definition of the pixels, for training, evaluation and serving alike.
"""

import hashlib
import io
from collections import OrderedDict
from functools import lru_cache
from threading import Lock
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageCms

from contract.picture import Picture
from contract.recipe import Recipe

Pixels = NDArray[np.uint8]

_kept: OrderedDict[tuple[bytes, str], ImageCms.ImageCmsTransform | None] = OrderedDict()
_lock = Lock()
_LONGEST: Final = 16  # times the shorter side, of a picture that is scaled as a whole


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
    if (width, height) != image.size:  # not by crop(), which has a limit of its own
        box = (x, y, x + width, y + height)
        image = image.transform((width, height), Image.Transform.EXTENT, box)
    scaled = [int(recipe.resize * side / shorter) for side in image.size]
    x, y = (round((side - recipe.resize) / 2) for side in scaled)
    whole = image.resize((scaled[0], scaled[1]), Image.Resampling.BILINEAR)
    return whole.crop((x + left, y + top, x + left + size, y + top + size))


def _to_srgb(image: Image.Image, profile: bytes | None) -> Image.Image:
    """RGB in sRGB. A profile that does not fit the picture is ignored, as browsers do."""
    if profile is None and image.mode == "LAB":
        return ImageCms.applyTransform(image, _lab_to_srgb()) or image
    if profile is not None:
        transform = _transform(profile, image.mode)
        if transform is not None:
            converted = ImageCms.applyTransform(image, transform)
            assert converted is not None  # None is for in-place only
            return converted
    return image.convert("RGB")


def _transform(profile: bytes, mode: str) -> ImageCms.ImageCmsTransform | None:
    """None where the profile does not fit the mode. The last 16 are kept, and not their profiles, which may
    have megabytes.
    """
    key = hashlib.sha256(profile).digest(), mode
    with _lock:
        if key in _kept:
            _kept.move_to_end(key)
            return _kept[key]
    transform = _build(profile, mode)
    with _lock:
        _kept[key] = transform
        if len(_kept) > 16:
            _kept.popitem(last=False)
    return transform


def _build(profile: bytes, mode: str) -> ImageCms.ImageCmsTransform | None:
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
