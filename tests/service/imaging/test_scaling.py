"""Test that scaling with ONNX Runtime gives Pillow's pixels to the bit, on the CPU's provider."""

import numpy as np
import onnxruntime as ort
import pytest
from PIL import Image

from contract.picture import Picture
from contract.preprocess import Pixels, centre_crop, square, ten_crops
from contract.recipe import DEFAULT_RECIPE, RECIPES, Recipe
from service.imaging.scaling import Scaler, crops_of
from tests.support.drawing.pictures import scene

SCALER = Scaler(ort, ["CPUExecutionProvider"], "cpu")
SIZES = [
    (500, 375),
    (375, 500),
    (375, 540),  # Pillow scales its rows first
    (600, 600),
    (1999, 1403),
    (256, 256),
    (257, 259),
    (201, 300),
    (40, 31),
    (31, 40),
    (1000, 100),
    (90, 1400),
    (1, 1),
]


def scaled(pixels: Pixels, recipe: Recipe, count: int) -> Pixels:
    height, width = pixels.shape[:2]
    crops = np.zeros((count, recipe.crop, recipe.crop, 3), np.uint8)
    for crop, target in zip(crops_of(width, height, recipe, count), crops, strict=True):
        SCALER.scale(pixels.ctypes.data, width, crop, target.ctypes.data)
    return crops


def noisy(width: int, height: int) -> Pixels:
    """Draw a scene with noise, so that every weight counts."""
    levels = np.asarray(scene(width, height)).astype(int)
    noise = np.random.default_rng(width).integers(-40, 41, levels.shape)
    return np.clip(levels + noise, 0, 255).astype(np.uint8)


def picture(pixels: Pixels) -> Picture:
    image = Image.fromarray(pixels)
    return Picture(image, None, *image.size, "JPEG")


@pytest.mark.parametrize("recipe", RECIPES.values(), ids=RECIPES)
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_central_crop_is_pillows(size: tuple[int, int], recipe: Recipe) -> None:
    pixels = noisy(*size)
    expected = centre_crop(picture(pixels), recipe)
    assert np.array_equal(scaled(pixels, recipe, 1)[0], expected)


@pytest.mark.parametrize("recipe", RECIPES.values(), ids=RECIPES)
@pytest.mark.parametrize("size", [(500, 375), (375, 500)], ids=str)
def test_ten_crops_are_pillows(size: tuple[int, int], recipe: Recipe) -> None:
    pixels = noisy(*size)
    expected = ten_crops(square(picture(pixels), recipe), recipe)
    assert np.array_equal(scaled(pixels, recipe, 10), expected)


def test_sizes_above_need_both_orders() -> None:
    orders = {crops_of(*size, recipe, 1)[0].rows_first for size in SIZES for recipe in RECIPES.values()}
    assert orders == {False, True}


@pytest.mark.parametrize("level", [1, 255])
def test_plain_picture_keeps_its_level(level: int) -> None:
    pixels = np.full((3800, 3800, 3), level, np.uint8)  # the most pixels that one sum has
    assert (scaled(pixels, DEFAULT_RECIPE, 1) == level).all()
