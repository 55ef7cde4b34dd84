"""Scale and crop an upright picture to the uint8 sRGB pixels that the network takes.

This is the only definition of those pixels: training, evaluation and serving all use it.
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

_transforms: OrderedDict[tuple[bytes, str], ImageCms.ImageCmsTransform | None] = OrderedDict()
_lock = Lock()
_MAX_ASPECT_RATIO: Final = 16  # of a picture that is scaled as a whole; the rest is cut off


def square(picture: Picture, recipe: Recipe) -> Pixels:
    """Return the central square at the recipe's scale: (resize, resize, 3) uint8, sRGB."""
    return _sample(picture, recipe, 0, 0, recipe.resize)


def centre_crop(picture: Picture, recipe: Recipe) -> Pixels:
    """Return the central crop, which is classified: (crop, crop, 3) uint8, sRGB."""
    margin = (recipe.resize - recipe.crop) // 2
    return _sample(picture, recipe, margin, margin, recipe.crop)


def ten_crops(pixels: Pixels, recipe: Recipe) -> Pixels:
    """Cut the ten crops from a `square`: (10, crop, crop, 3).

    They are the four corners and the centre, then their mirror images. In the paper, section 4.1, the
    prediction is the mean of the ten softmax outputs.
    """
    crops = np.stack([pixels[y : y + recipe.crop, x : x + recipe.crop] for y, x in five_places(recipe)])
    return np.concatenate([crops, crops[:, :, ::-1]])


def five_places(recipe: Recipe) -> list[tuple[int, int]]:
    """Return row and column of the upper left pixel of the first five crops in the square."""
    far, near = recipe.resize - recipe.crop, (recipe.resize - recipe.crop) // 2
    return [(0, 0), (0, far), (far, 0), (far, far), (near, near)]


def _sample(picture: Picture, recipe: Recipe, left: int, top: int, size: int) -> Pixels:
    """Resample `size` x `size` pixels at (left, top) of the central square, directly from the source."""
    image = picture.image
    if recipe.whole:
        crop = _sample_whole(image, recipe, left, top, size)
        return np.asarray(_to_srgb(crop, picture.profile))
    shorter = min(image.size)
    scale = shorter / recipe.resize
    x = (image.width - shorter) / 2 + left * scale
    y = (image.height - shorter) / 2 + top * scale
    # Rounding can put the upper bound an ulp beyond the edge, which Pillow rejects.
    box = (x, y, min(x + size * scale, image.width), min(y + size * scale, image.height))
    crop = image.resize((size, size), Image.Resampling.BILINEAR, box=box)
    return np.asarray(_to_srgb(crop, picture.profile))


def _sample_whole(image: Image.Image, recipe: Recipe, left: int, top: int, size: int) -> Image.Image:
    """Sample exactly as torchvision's Resize and CenterCrop do."""
    shorter = min(image.size)
    # Scaling a strip of 1 x 100,000 pixels would need gigabytes; no crop reaches that far out.
    width, height = (min(side, _MAX_ASPECT_RATIO * shorter) for side in image.size)
    x, y = (image.width - width) // 2, (image.height - height) // 2
    if (width, height) != image.size:  # not with crop(), which has a size limit of its own
        box = (x, y, x + width, y + height)
        image = image.transform((width, height), Image.Transform.EXTENT, box)
    scaled = [int(recipe.resize * side / shorter) for side in image.size]
    x, y = (round((side - recipe.resize) / 2) for side in scaled)
    whole = image.resize((scaled[0], scaled[1]), Image.Resampling.BILINEAR)
    return whole.crop((x + left, y + top, x + left + size, y + top + size))


def _to_srgb(image: Image.Image, profile: bytes | None) -> Image.Image:
    """Convert to RGB in sRGB. A profile that does not fit the picture is ignored, as browsers do."""
    if profile is None and image.mode == "LAB":
        return ImageCms.applyTransform(image, _lab_to_srgb()) or image
    if profile is not None:
        transform = _transform(profile, image.mode)
        if transform is not None:
            converted = ImageCms.applyTransform(image, transform)
            assert converted is not None  # None is returned only for in-place conversion
            return converted
    return image.convert("RGB")


def _transform(profile: bytes, mode: str) -> ImageCms.ImageCmsTransform | None:
    """Return the transform from a profile to sRGB; None where the profile does not fit the mode.

    The last 16 transforms are cached by the hash of their profile, since a profile may have megabytes.
    """
    key = hashlib.sha256(profile).digest(), mode
    with _lock:
        if key in _transforms:
            _transforms.move_to_end(key)
            return _transforms[key]
    transform = _build(profile, mode)
    with _lock:
        _transforms[key] = transform
        if len(_transforms) > 16:
            _transforms.popitem(last=False)
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
