"""Test that the cost of decoding is known from the header, or that the file is refused."""

import io
import tracemalloc
import warnings

import numpy as np
import pytest
from PIL import Image, ImageCms

from contract.formats import icc, isobmff, webp
from contract.picture import InvalidImage, Picture, decode, decode_pixels, read_header
from contract.preprocess import centre_crop
from contract.recipe import DEFAULT_RECIPE
from tests.corpus import boxes, cases, profiles
from tests.corpus.case import PIXELS
from tests.support.drawing.pictures import encode, swapped_profile
from tests.support.drawing.samples import SCENE, samples

MAX_PIXELS = 67_000_000  # the default of the service
EXPECTED = {case.name: case for case in cases() if case.expected is not None}


def outcome(data: bytes) -> str:
    """Decode and crop; return PIXELS, or why the file was refused."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            header = read_header(data, DEFAULT_RECIPE, MAX_PIXELS)
            if header.bytes > 6 * MAX_PIXELS:
                return "because of the memory"
            crop = centre_crop(decode_pixels(header), DEFAULT_RECIPE)
        except InvalidImage as error:
            return str(error)
    assert crop.shape == (224, 224, 3)
    return PIXELS


@pytest.mark.parametrize("family", ["profile-", "boxes-", "webp-", "strips-", "kind-"])
def test_corpus_cases_have_their_expected_outcome(family: str) -> None:
    family_cases = {name: case for name, case in EXPECTED.items() if name.startswith(family)}
    assert len(family_cases) > 10
    for name, case in family_cases.items():
        assert case.expected is not None
        assert case.expected in outcome(case.make()), name


@pytest.mark.parametrize("name", profiles.APPLIED)
def test_valid_profile_is_converted_as_by_lcms(name: str) -> None:
    mode, profile = profiles.mode_of(name), profiles.profiles()[name]
    picture = decode(encode(SCENE.convert(mode), "TIFF", icc_profile=profile), DEFAULT_RECIPE, 10**6)
    assert picture.profile_ignored is None
    plain = Picture(picture.image, None, picture.width, picture.height, "TIFF")
    crop = centre_crop(picture, DEFAULT_RECIPE)
    assert not np.array_equal(crop, centre_crop(plain, DEFAULT_RECIPE))
    source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
    box = ((SCENE.width - 320) / 2 + 20, 20, (SCENE.width - 320) / 2 + 300, 300)
    sampled = picture.image.resize((224, 224), Image.Resampling.BILINEAR, box=box)
    converted = ImageCms.profileToProfile(sampled, source, ImageCms.createProfile("sRGB"), outputMode="RGB")
    assert converted is not None
    assert np.array_equal(crop, np.asarray(converted))


@pytest.mark.parametrize("name", sorted(profiles.profiles().keys() - set(profiles.APPLIED) - {"empty"}))
def test_rejected_profile_leaves_the_pixels_unchanged(name: str) -> None:
    data = encode(SCENE, "TIFF", icc_profile=profiles.profiles()[name])
    picture = decode(data, DEFAULT_RECIPE, 10**6)
    assert picture.profile is None
    assert picture.profile_ignored
    plain = decode(encode(SCENE, "TIFF"), DEFAULT_RECIPE, 10**6)
    assert plain.profile_ignored is None
    assert np.array_equal(centre_crop(picture, DEFAULT_RECIPE), centre_crop(plain, DEFAULT_RECIPE))


def test_profiles_made_by_libraries_are_accepted() -> None:
    library_profiles = [
        ImageCms.ImageCmsProfile(ImageCms.createProfile(kind)).tobytes() for kind in ("sRGB", "LAB")
    ]
    for profile in (*library_profiles, swapped_profile()):
        assert icc.rejection_reason(profile) is None
    assert (
        icc.rejection_reason((1, 2, 3)) == "it is not a block of bytes"
    )  # the value of a TIFF tag of numbers


def test_lab_picture_with_a_rejected_profile_is_converted_as_lab() -> None:
    lab = encode(Image.new("LAB", (64, 64), (120, 200, 30)), "TIFF")
    under = encode(
        Image.new("LAB", (64, 64), (120, 200, 30)), "TIFF", icc_profile=profiles.profiles()["elements"]
    )
    without_profile, ignored = (
        centre_crop(decode(data, DEFAULT_RECIPE, 10**6), DEFAULT_RECIPE) for data in (lab, under)
    )
    assert np.array_equal(without_profile, ignored)


def test_cached_transform_does_not_hold_its_profile() -> None:
    tracemalloc.start()
    try:
        for n in range(20):
            profile = profiles.display((b"xtra", bytes([n]) * 3_000_000))
            decoded = decode(encode(SCENE, "TIFF", icc_profile=profile), DEFAULT_RECIPE, 10**6)
            centre_crop(decoded, DEFAULT_RECIPE)
        del profile, decoded
        assert tracemalloc.get_traced_memory()[0] < 10_000_000  # 16 profiles have 48 million bytes
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("alpha", [False, True])
@pytest.mark.parametrize("kind", ["AVIF", "HEIF"])
def test_coded_pixels_of_an_ordinary_picture_are_its_size(kind: str, alpha: bool) -> None:
    samples()  # registers HEIF
    image = Image.new("RGBA" if alpha else "RGB", (640, 480), (200, 30, 90, 128)[: 4 if alpha else 3])
    data = encode(image, kind)
    assert isobmff.coded_pixels(data) == (2 if alpha else 1) * 640 * 480
    assert read_header(data, DEFAULT_RECIPE, 10**6).bytes == 16 * 640 * 480


def test_cells_larger_than_declared_are_counted_at_their_real_size() -> None:
    data = boxes.grid(4, 5, side=64, real=1024)
    assert isobmff.coded_pixels(data) == 20 * 1024 * 1024
    header = read_header(data, DEFAULT_RECIPE, 10**6)
    assert header.width * header.height == 20 * 64 * 64
    assert header.bytes > 6 * 19 * 1024 * 1024


@pytest.mark.parametrize("method", [0, 6])
@pytest.mark.parametrize("mode", ["RGB", "RGBA", "P"])
def test_ordinary_lossless_webp_needs_little_memory_for_codes(mode: str, method: int) -> None:
    image = SCENE.resize((1500, 1200)).convert(mode)
    data = encode(image, "WEBP", lossless=True, method=method)
    assert webp.code_bytes(data) < 64_000_000
    assert outcome(data) == PIXELS
