"""The corpus of bad pictures against the contract alone: pixels or an ImageError, whatever comes."""

import warnings

import numpy as np
import pytest

from contract.formats import guard
from contract.picture import ImageError, InvalidImage, decode
from contract.preprocess import centre_crop
from contract.recipe import DEFAULT_RECIPE, TORCHVISION_RECIPE, Recipe
from tests.corpus import cases, sample
from tests.corpus.files import segment
from tests.support.pictures import encode
from tests.support.samples import SCENE

LIMIT = 4_000_000
NAMES = {case.name: case for case in cases()}


def outcome(data: bytes, recipe: Recipe = DEFAULT_RECIPE) -> str:
    """Any exception but ours fails the test that calls this."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            crop = centre_crop(decode(data, recipe, LIMIT), recipe)
        except ImageError as error:
            return type(error).__name__
    assert crop.shape == (224, 224, 3)
    assert crop.dtype == np.uint8
    return "pixels"


@pytest.mark.parametrize("recipe", [DEFAULT_RECIPE, TORCHVISION_RECIPE], ids=lambda recipe: recipe.id)
def test_a_sample_of_the_corpus(recipe: Recipe) -> None:
    seen = {name: outcome(data, recipe) for name, data in sample(200, seed=len(recipe.id))}
    assert set(seen.values()) <= {"pixels", "InvalidImage", "UnsupportedImage", "TooManyPixels"}, seen
    assert len(set(seen.values())) >= 3  # or the corpus is not what it says


def test_the_corpus_is_the_same_every_time() -> None:
    assert list(sample(40, seed=3)) == list(sample(40, seed=3))
    assert len(NAMES) == len(cases())


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("bomb-jpeg-segments", "parts"),
        ("bomb-jpeg-junk", "parts"),
        ("bomb-jpeg-exif-dribble", "blocks of metadata"),
        ("bomb-jpeg-resources", "blocks of metadata"),
        ("bomb-jpeg-scans-small", "200001 scans are too many for 307200 pixels"),
        ("bomb-png-ztxt-too-many", "Too much memory used in text chunks"),
        ("bomb-png-ztxt-too-long", "too large"),
        ("bomb-png-text-many", "parts"),
        ("bomb-gif-sub-blocks", "parts"),
        ("bomb-avif-exif", "a tag has 2000000 values"),
        ("bomb-tiff-rationals", "a tag has 2000000 values"),
        ("bomb-tiff-tile-of-16000", "tiles are much larger"),
        ("bomb-bmp-rle-steps", "more than 1500000 sequences of runs"),
    ],
)
def test_a_bomb_is_refused_for_what_it_is(name: str, said: str) -> None:
    """Each took between 2 and 60 seconds, or gigabytes, where the guard is not."""
    with pytest.raises(InvalidImage, match=said):
        decode(NAMES[name].make(), DEFAULT_RECIPE, 10**7)


def test_the_limits_of_the_guard_leave_sound_pictures_alone() -> None:
    for name in NAMES:
        if name.startswith(("sound-", "mode-", "size-67", "size-255")):
            assert outcome(NAMES[name].make()) == "pixels", name


def test_blocks_of_metadata_are_those_of_the_header() -> None:
    """Not what looks like one within a segment or among the pixels."""
    picture = encode(SCENE, "JPEG")
    for much in (segment(0xFE, b"x" + b"Exif\0\0" * 9000) + segment(0xE1, b"x" + b"8BIM" * 9000) * 2, b""):
        data = picture[:20] + much + picture[20:] + b"Exif\0\0" * 200
        assert decode(data, DEFAULT_RECIPE, 10**7).width == SCENE.width


def test_parts_are_counted_and_the_bytes_are_the_same() -> None:
    parts = guard.BoundedFile(b"abcdef", "JPEG")
    assert parts.read(2) + parts.read() == b"abcdef"
    assert parts.getvalue() == b"abcdef"
    for _ in range(100_000 - 2):
        parts.read(1)
    with pytest.raises(ValueError, match="more than 100000 parts"):
        parts.read(1)
