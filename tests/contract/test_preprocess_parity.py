"""Compare our pixels with Pillow's: the whole upright sRGB picture resized, then cropped."""

import io

import numpy as np
import pytest
from PIL import Image, ImageOps

from contract.picture import Picture, decode
from contract.preprocess import Pixels, centre_crop, square, ten_crops
from contract.recipe import DEFAULT_RECIPE, TORCHVISION_RECIPE, Recipe
from tests.support.drawing.pictures import (
    CORNERS,
    STORED,
    encode,
    orientation_tag,
    png,
    scene,
    stored,
    tiff,
)
from tests.support.drawing.samples import SCENE, samples

RECIPE = DEFAULT_RECIPE
WHOLE_JPEG = Recipe("whole JPEG, for comparison", RECIPE.resize, RECIPE.crop, scaled_jpeg=False)
LIMIT = 10**8


def reference_square(expected: Image.Image) -> Pixels:
    image, shorter = expected.convert("RGB"), min(expected.size)
    width, height = (round(n * 256 / shorter) for n in image.size)
    image = image.resize((width, height), Image.Resampling.BILINEAR)
    x, y = (width - 256) // 2, (height - 256) // 2
    return np.asarray(image.crop((x, y, x + 256, y + 256)))


def read(data: bytes, recipe: Recipe = RECIPE) -> Picture:
    return decode(data, recipe, LIMIT)


def gap(ours: Pixels, theirs: Pixels) -> tuple[int, float]:
    """Return the largest and the mean difference, in levels of 255."""
    assert ours.shape == theirs.shape
    difference = np.abs(ours.astype(int) - theirs.astype(int))
    return int(difference.max()), float(difference.mean())


@pytest.mark.parametrize("name", samples())
def test_every_format_and_mode_matches_pillow_resize(name: str) -> None:
    sample = samples()[name]
    picture = read(sample.data)
    assert (picture.width, picture.height) == SCENE.size
    assert picture.format == name.split("-")[0].upper()
    worst, mean = gap(square(picture, RECIPE), reference_square(sample.expected))
    if sample.mean is None:
        assert worst <= 1, f"{worst} levels at most, {mean:.2f} on average"
    else:
        assert mean <= sample.mean, f"{worst} levels at most, {mean:.2f} on average"


@pytest.mark.parametrize("name", ["jpeg-rgb", "webp-lossy", "avif-rgb", "heif-rgb", "gif", "png-palette"])
def test_lossy_files_keep_their_colours(name: str) -> None:
    _worst, mean = gap(square(read(samples()[name].data), RECIPE), reference_square(SCENE))
    assert mean < (8 if name in {"gif", "png-palette"} else 3)  # they have 64 colours


@pytest.mark.parametrize(
    "size",
    [
        (256, 256),
        (320, 256),
        (256, 336),
        (512, 512),
        (640, 512),
        (384, 576),
        (128, 160),
        (64, 64),
        (1280, 1024),
    ],
)
def test_aligned_sizes_differ_by_at_most_1_level(size: tuple[int, int]) -> None:
    image = scene(*size)
    picture = read(encode(image, "PNG"))
    expected = reference_square(image)
    assert gap(square(picture, RECIPE), expected)[0] <= 1
    assert gap(centre_crop(picture, RECIPE), expected[16:240, 16:240])[0] <= 1


@pytest.mark.parametrize("size", [(257, 300), (333, 500), (1000, 667), (37, 91), (500, 259)])
def test_other_sizes_differ_by_less_than_0_75_levels_on_average(size: tuple[int, int]) -> None:
    """The reference rounds the long side and the corner of the crop to integers; our code does not."""
    image = scene(*size)
    picture = read(encode(image, "PNG"))
    assert gap(square(picture, RECIPE), reference_square(image))[1] < 0.75


@pytest.mark.parametrize("size", [(1, 1), (1, 3000), (3000, 1), (2, 2)])
def test_pictures_one_pixel_wide_are_resized(size: tuple[int, int]) -> None:
    crop = centre_crop(read(encode(Image.new("RGB", size, (10, 200, 30)), "PNG")), RECIPE)
    assert crop.shape == (224, 224, 3)
    assert (crop == (10, 200, 30)).all()


@pytest.mark.parametrize("size", [(400, 320), (333, 500)])
def test_centre_crop_is_the_middle_of_the_square(size: tuple[int, int]) -> None:
    picture = read(encode(scene(*size), "PNG"))
    assert gap(centre_crop(picture, RECIPE), square(picture, RECIPE)[16:240, 16:240])[0] <= 1


def test_ten_crops_are_corners_centre_and_mirror_images() -> None:
    pixels = square(read(encode(scene(333, 500), "PNG")), RECIPE)
    corners = [(0, 0), (0, 32), (32, 0), (32, 32), (16, 16)]
    crops = ten_crops(pixels, RECIPE)
    assert crops.shape == (10, 224, 224, 3)
    for index, (y, x) in enumerate(corners):
        part = Image.fromarray(pixels).crop((x, y, x + 224, y + 224))
        assert np.array_equal(crops[index], np.asarray(part))
        assert np.array_equal(crops[5 + index], np.asarray(ImageOps.mirror(part)))


@pytest.mark.parametrize("orientation", STORED)
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF", "AVIF", "HEIF"])
def test_every_orientation_is_turned_upright(kind: str, orientation: int) -> None:
    samples()  # registers HEIF
    image = scene(300, 400)
    lossless = {"lossless": True} if kind == "WEBP" else {}
    file = encode(stored(image, orientation), kind, exif=orientation_tag(orientation), **lossless)
    picture = read(file)
    crop = centre_crop(picture, RECIPE).astype(int)
    assert (picture.width, picture.height) == image.size
    for corner, colour in zip(
        (crop[3, 3], crop[3, -4], crop[-4, 3], crop[-4, -4]), CORNERS.values(), strict=True
    ):
        assert np.abs(corner - colour).max() < 30


def test_invalid_orientation_is_ignored() -> None:
    for value in (0, 9, 77):
        data = encode(SCENE, "PNG", exif=orientation_tag(value))
        assert gap(square(read(data), RECIPE), reference_square(SCENE))[0] <= 1


@pytest.mark.parametrize("kind", ["png", "tiff-little", "tiff-big"])
def test_16_bit_grey_keeps_its_gradation(kind: str) -> None:
    ramp = np.tile(np.linspace(0, 65535, 256).astype(np.uint16), (256, 1))
    data = png(ramp, 0) if kind == "png" else tiff(ramp, 1, "<" if kind == "tiff-little" else ">")
    levels = square(read(data), RECIPE)
    assert gap(levels, np.tile(np.arange(256, dtype=np.uint8)[:, None], (256, 1, 3)))[0] <= 1


def test_16_bit_grey_rounds_to_the_nearest_level() -> None:
    values = np.array([0, 128, 129, 257, 32767, 32768, 65406, 65407, 65535], dtype=np.uint16)
    for value in values:
        crop = centre_crop(read(png(np.full((4, 4), value), 0)), RECIPE)
        assert (crop == round(int(value) / 257)).all(), value


@pytest.mark.parametrize("size", [(2400, 1800), (3000, 2001), (1030, 2060), (4096, 2048)])
def test_scaled_jpeg_decoding_is_close_to_full_decoding(size: tuple[int, int]) -> None:
    data = encode(scene(*size), "JPEG", quality=90)
    scaled, whole = read(data), read(data, WHOLE_JPEG)
    assert max(scaled.image.size) < max(whole.image.size)  # otherwise nothing is compared
    assert min(scaled.image.size) >= RECIPE.resize
    assert (scaled.width, scaled.height) == whole.image.size == size
    _worst, mean = gap(square(scaled, RECIPE), square(whole, WHOLE_JPEG))
    assert mean < 0.75  # levels of 255
    assert gap(square(whole, WHOLE_JPEG), reference_square(Image.open(io.BytesIO(data))))[1] < 0.75


def test_small_jpeg_is_not_scaled() -> None:
    assert read(encode(scene(511, 700), "JPEG")).image.size == (511, 700)


@pytest.mark.parametrize("size", [(256, 256), (300, 257), (257, 411), (640, 427), (90, 61), (1000, 333)])
def test_torchvision_recipe_matches_torchvision_exactly(size: tuple[int, int]) -> None:
    """The reference is Resize(256) and CenterCrop(224) of torchvision 0.28 for Pillow pictures."""
    image, (width, height) = scene(*size), size
    if width < height:
        image = image.resize((256, int(256 * height / width)), Image.Resampling.BILINEAR)
    else:
        image = image.resize((int(256 * width / height), 256), Image.Resampling.BILINEAR)
    top, left = (round((side - 224) / 2.0) for side in (image.height, image.width))
    expected = np.asarray(image.crop((left, top, left + 224, top + 224)))
    picture = read(encode(scene(*size), "PNG"), TORCHVISION_RECIPE)
    assert np.array_equal(centre_crop(picture, TORCHVISION_RECIPE), expected)
    pixels = square(picture, TORCHVISION_RECIPE)
    assert np.array_equal(pixels[16:240, 16:240], expected)
    assert np.array_equal(ten_crops(pixels, TORCHVISION_RECIPE)[4], expected)


def test_torchvision_recipe_limits_memory_for_a_narrow_strip() -> None:
    """Scaling the whole strip would take 256 x 256 x 12,000 pixels."""
    picture = read(encode(Image.new("RGB", (12_000, 1), (9, 8, 7)), "PNG"), TORCHVISION_RECIPE)
    assert (centre_crop(picture, TORCHVISION_RECIPE) == (9, 8, 7)).all()
