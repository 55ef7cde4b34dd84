"""Test that decoding any file of the corpus gives pixels or an ImageError, and nothing else."""

import warnings

import numpy as np
import pytest

from contract.formats import guard
from contract.picture import ImageError, InvalidImage, decode
from contract.preprocess import centre_crop
from contract.recipe import DEFAULT_RECIPE, TORCHVISION_RECIPE, Recipe
from tests.corpus import cases, sample
from tests.corpus.files import segment
from tests.support.drawing.pictures import encode
from tests.support.drawing.samples import SCENE

LIMIT = 4_000_000
NAMES = {case.name: case for case in cases()}


def outcome(data: bytes, recipe: Recipe = DEFAULT_RECIPE) -> str:
    """Decode and crop; return the outcome. Any exception but ImageError fails the test."""
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
def test_sample_of_the_corpus_gives_pixels_or_an_image_error(recipe: Recipe) -> None:
    outcomes = {name: outcome(data, recipe) for name, data in sample(200, seed=len(recipe.id))}
    assert set(outcomes.values()) <= {"pixels", "InvalidImage", "UnsupportedImage", "TooManyPixels"}, (
        outcomes
    )
    assert len(set(outcomes.values())) >= 3  # otherwise the corpus is not varied


def test_corpus_is_reproducible() -> None:
    assert list(sample(40, seed=3)) == list(sample(40, seed=3))
    assert len(NAMES) == len(cases())


@pytest.mark.parametrize(
    ("name", "reason"),
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
def test_bomb_is_refused_with_its_reason(name: str, reason: str) -> None:
    """Without the limits, each takes 2 to 60 seconds, or gigabytes."""
    with pytest.raises(InvalidImage, match=reason):
        decode(NAMES[name].make(), DEFAULT_RECIPE, 10**7)


def test_intact_pictures_are_within_the_limits() -> None:
    for name in NAMES:
        if name.startswith(("sound-", "mode-", "size-67", "size-255")):
            assert outcome(NAMES[name].make()) == "pixels", name


def test_only_header_segments_count_as_metadata_blocks() -> None:
    """Patterns within a segment or among the pixels do not count."""
    picture = encode(SCENE, "JPEG")
    for padding in (
        segment(0xFE, b"x" + b"Exif\0\0" * 9000) + segment(0xE1, b"x" + b"8BIM" * 9000) * 2,
        b"",
    ):
        data = picture[:20] + padding + picture[20:] + b"Exif\0\0" * 200
        assert decode(data, DEFAULT_RECIPE, 10**7).width == SCENE.width


def test_bounded_file_counts_reads_and_returns_the_bytes() -> None:
    file = guard.BoundedFile(b"abcdef", "JPEG")
    assert file.read(2) + file.read() == b"abcdef"
    assert file.getvalue() == b"abcdef"
    for _ in range(100_000 - 2):
        file.read(1)
    with pytest.raises(ValueError, match="more than 100000 parts"):
        file.read(1)
