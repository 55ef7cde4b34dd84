"""The edges that mutation testing found untested: see docs/testing.md."""

import io
import json
from collections.abc import Callable, Iterator
from typing import Any, ClassVar

import numpy as np
import pytest
from PIL import Image, ImageFile

from contract.manifest import Manifest, ManifestError, Metrics, Tensor
from contract.picture import InvalidImage, Picture, UnsupportedImage, _reason, decode, read_header, sniff
from contract.preprocess import square
from contract.recipe import DEFAULT_RECIPE, RECIPES, TORCHVISION_RECIPE
from tests.support.pictures import encode, png, png_chunk, scene

LIMIT = 10**8


def test_the_memory_of_a_jpeg_is_that_of_its_scaled_size() -> None:
    image = scene(2048, 1024)
    header = read_header(encode(image, "JPEG"), DEFAULT_RECIPE, LIMIT)
    assert header.image.size == (512, 256)
    assert header.bytes == 8 * 512 * 256
    assert (header.width, header.height) == (2048, 1024)


def test_a_progressive_jpeg_takes_memory_at_its_full_size() -> None:
    data = io.BytesIO()
    scene(2048, 1024).save(data, "JPEG", progressive=True)
    header = read_header(data.getvalue(), DEFAULT_RECIPE, LIMIT)
    assert header.bytes == 8 * 512 * 256 + 2 * 3 * 2048 * 1024


def test_what_is_not_a_jpeg_takes_memory_for_all_its_pixels() -> None:
    assert read_header(encode(scene(640, 320), "PNG"), DEFAULT_RECIPE, LIMIT).bytes == 8 * 640 * 320


class Spy(ImageFile.ImageFile):
    """A format of Pillow's that takes any bytes."""

    format = "SPY"
    tried: ClassVar[list[bytes]] = []

    def _open(self) -> None:
        Spy.tried.append(self.fp.read(4) if self.fp else b"")
        raise SyntaxError("not mine either")


@pytest.fixture
def spy() -> Iterator[list[bytes]]:
    Spy.tried.clear()
    Image.register_open("SPY", Spy)
    yield Spy.tried
    Image.ID.remove("SPY")
    del Image.OPEN["SPY"]


SIGNATURES = {
    "JPEG": b"\xff\xd8\xff",
    "PNG": b"\x89PNG\r\n\x1a\n",
    "GIF": b"GIF89a",
    "BMP": b"BM",
    "TIFF": b"II*\0",
    "WEBP": b"RIFF....WEBP",
    "AVIF": b"\0\0\0\x14ftypavif\0\0\0\0avif",
}


@pytest.mark.parametrize("name", SIGNATURES)
def test_no_other_format_is_tried_than_the_one_of_the_signature(name: str, spy: list[bytes]) -> None:
    data = SIGNATURES[name] + b"x" * 400
    with pytest.raises(OSError, match="cannot identify"):
        Image.open(io.BytesIO(b"nothing"))
    assert spy == [b"noth"], "Pillow left to itself tries all"
    with pytest.raises(InvalidImage, match=f"^the {name} file is corrupt or truncated: "):
        decode(data, DEFAULT_RECIPE, LIMIT)
    assert len(spy) == 1


def test_what_has_no_signature_is_told_the_formats() -> None:
    with pytest.raises(
        UnsupportedImage,
        match=r"^not an image in a known format; send JPEG, PNG, WebP, GIF, TIFF, BMP or AVIF$",
    ):
        decode(b"x" * 400, DEFAULT_RECIPE, LIMIT)


@pytest.mark.parametrize(
    ("length", "brands", "name"),
    [
        (20, [b"mif1", b"0000", b"avif"], "AVIF"),  # major brand, version, compatible brands
        (24, [b"miaf", b"0000", b"miaf", b"heic"], "HEIF"),
        (16, [b"avis", b"0000"], "AVIF"),
        (20, [b"xxxx", b"0000", b"xavi", b"fxxx"], None),  # not at a multiple of four bytes
        (16, [b"xxxx", b"0000", b"heic"], None),  # behind the end of the box
        (2**31, [b"xxxx", *[b"0000"] * 61, b"heic"], None),  # 256 bytes are enough
        (2**31, [b"xxxx", *[b"0000"] * 60, b"heic"], "HEIF"),
    ],
)
def test_the_brands_of_a_box(length: int, brands: list[bytes], name: str | None) -> None:
    assert sniff(length.to_bytes(4, "big") + b"ftyp" + b"".join(brands)) == name


def random(*shape: int, dtype: type[np.generic] = np.uint8, high: int = 256) -> np.ndarray:
    return np.random.default_rng(1).integers(0, high, shape).astype(dtype)


def test_a_picture_of_more_than_a_strip_is_laid_over_white_as_a_whole() -> None:
    pixels = random(1300, 1700, 4)
    seen = np.asarray(decode(encode(Image.fromarray(pixels), "PNG"), DEFAULT_RECIPE, LIMIT).image)
    white = Image.new("RGBA", (1700, 1300), "white")
    expected = Image.alpha_composite(white, Image.fromarray(pixels)).convert("RGB")
    assert np.array_equal(seen, np.asarray(expected))


def test_16_bits_of_more_than_a_strip_are_scaled_as_a_whole() -> None:
    levels = random(1300, 1700, dtype=np.uint16, high=65536)
    seen = np.asarray(decode(encode(Image.fromarray(levels), "PNG"), DEFAULT_RECIPE, LIMIT).image)
    assert np.array_equal(seen, np.rint(levels / 257).astype(np.uint8))


@pytest.mark.parametrize("levels", [(0, 65536), (-1, 65535), (-1, 65536)])
def test_levels_beyond_16_bits_are_refused_with_the_reason(levels: tuple[int, int]) -> None:
    data = encode(Image.fromarray(np.array([levels] * 2, dtype=np.int32)), "TIFF")
    with pytest.raises(
        InvalidImage, match=r"^32-bit levels have no defined white; save it with 8 or 16 bits$"
    ):
        decode(data, DEFAULT_RECIPE, LIMIT)


def test_the_whole_range_of_16_bits_is_taken() -> None:
    data = encode(Image.fromarray(np.array([[0, 65535]] * 2, dtype=np.int32)), "TIFF")
    assert np.asarray(decode(data, DEFAULT_RECIPE, LIMIT).image).tolist() == [[0, 255]] * 2


@pytest.mark.parametrize("upright", [False, True])
def test_of_a_strip_torchvision_s_recipe_sees_the_middle(upright: bool) -> None:
    pixels = random(20, 2000, 3)
    middle = pixels[:, 840:1160]  # 16 times the shorter side
    strips = [Image.fromarray(p.swapaxes(0, 1) if upright else p) for p in (pixels, middle)]
    whole, part = (square(Picture(s, None, s.width, s.height, "PNG"), TORCHVISION_RECIPE) for s in strips)
    assert np.array_equal(whole, part)


BITS = Image.fromarray((random(64, 64, high=2) * 255).astype(np.uint8)).convert("1")
GREY = Image.fromarray(random(64, 64))


@pytest.mark.parametrize(
    ("image", "kind", "options", "mode"),
    [
        (scene(64, 48), "PNG", {}, "RGB"),
        (scene(64, 48).convert("CMYK"), "TIFF", {}, "CMYK"),  # its profile speaks of inks
        (scene(64, 48).quantize(8), "PNG", {}, "RGB"),
        (GREY, "PNG", {}, "L"),
        (GREY, "PNG", {"transparency": 7}, "L"),
        (BITS, "PNG", {}, "L"),
        (BITS, "PNG", {"transparency": 0}, "L"),
    ],
)
def test_a_picture_keeps_the_mode_that_its_profile_is_for(
    image: Image.Image, kind: str, options: dict[str, Any], mode: str
) -> None:
    data = io.BytesIO()
    image.save(data, kind, **options)
    seen = decode(data.getvalue(), DEFAULT_RECIPE, LIMIT).image
    assert seen.mode == mode
    expected = image.convert(mode)
    if "transparency" in options:
        expected = expected.point(lambda level: 255 if level == options["transparency"] else level)
    assert np.array_equal(np.asarray(seen), np.asarray(expected))


def test_what_breaks_off_says_its_format_and_the_reason() -> None:
    data = encode(scene(640, 480), "JPEG")
    with pytest.raises(
        InvalidImage, match=r"^the JPEG file is corrupt or truncated: image file is truncated \("
    ):
        decode(data[: len(data) // 2], DEFAULT_RECIPE, LIMIT)


def test_lab_without_a_profile_has_its_defined_colours() -> None:
    """Lightness from 0 to 255, a and b around 128: black, white, the grey of sRGB's 119, sRGB's red."""
    colours = [(0, 128, 128), (255, 128, 128), (127, 128, 128), (138, 209, 198)]
    for lab, rgb in zip(colours, [(0, 0, 0), (255, 255, 255), (119, 119, 119), (255, 0, 0)], strict=True):
        picture = decode(encode(Image.new("LAB", (64, 64), lab), "TIFF"), DEFAULT_RECIPE, LIMIT)
        assert picture.profile is None
        assert np.abs(square(picture, DEFAULT_RECIPE).astype(int) - rgb).max() <= 6, lab


TENSOR = (Tensor("t", "uint8", (None,), "anything"),)


def manifest(**changes: object) -> Manifest:
    fields: dict[str, object] = {
        **{"name": "n", "version": 1, "architecture": {}, "classes": ("a", "b"), "recipe": DEFAULT_RECIPE},
        **{"mean": (0.0, 0.5, 255.0), "std": (1.0, 1.0, 1.0), "opset": 17, "precision": "fp32"},
        **{"inputs": TENSOR, "outputs": TENSOR},
    }
    return Manifest(**(fields | changes))  # type: ignore[arg-type]


def test_a_mean_may_be_black_and_white() -> None:
    assert manifest().mean == (0, 0.5, 255)


@pytest.mark.parametrize("side", ["inputs", "outputs"])
def test_a_graph_without_inputs_or_outputs_is_refused(side: str) -> None:
    with pytest.raises(ManifestError, match=f"^{side} is empty$"):
        manifest(**{side: ()})


def test_of_a_thousand_bad_classes_five_are_shown() -> None:
    with pytest.raises(ManifestError, match=r"not \['a', 'a', 'a', 'a', 'a'\]$"):
        manifest(classes=("a",) * 1000)


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_all_wrong_and_all_right_are_measured_by_one_picture_and_one_crop(share: float) -> None:
    assert Metrics("d", 1, 1, share, share).top5 == share
    with pytest.raises(ManifestError, match="must be 0 to 1, in this order"):
        Metrics("d", 1, 1, share, 1.5)


def read_back(change: Callable[[dict[str, Any]], None]) -> Manifest:
    record = json.loads(manifest().to_json())
    change(record)
    return Manifest.from_json(json.dumps(record))


def test_a_file_from_before_a_setting_is_read_as_it_was_meant() -> None:
    assert read_back(lambda record: record["preprocessing"].pop("whole")) == manifest()


def test_whole_numbers_are_numbers() -> None:
    read = read_back(lambda record: record["preprocessing"].update(mean=[0, 128, 255]))
    assert read.mean == (0.0, 128.0, 255.0)
    assert {type(value) for value in read.mean} == {float}


def test_an_unknown_preprocessing_is_answered_with_the_known_ones() -> None:
    with pytest.raises(ManifestError, match=f"'mine' is unknown; known: {', '.join(RECIPES)}$"):
        read_back(lambda record: record["preprocessing"].update(id="mine"))


def test_the_json_is_for_people_too() -> None:
    lines = manifest(classes=("Löwenzahn", "ひまわり")).to_json().splitlines()
    assert ' "name": "n",' in lines
    assert '  "Löwenzahn",' in lines
    assert '  "ひまわり"' in lines


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (ValueError("first line\nsecond line"), "first line"),
        (
            ValueError("cannot identify image file <_io.BytesIO object at 0x7f>"),
            "cannot identify image file",
        ),
        (ValueError("x" * 200), "x" * 120),
        (ValueError(), "ValueError"),
    ],
)
def test_the_reason_is_one_line_for_people(error: Exception, words: str) -> None:
    assert _reason(error) == words


def test_a_broken_file_says_its_format_and_the_reason() -> None:
    with pytest.raises(
        InvalidImage, match=r"^the GIF file is corrupt or truncated: cannot identify image file$"
    ):
        decode(b"GIF89a" + b"x" * 40, DEFAULT_RECIPE, LIMIT)


def test_with_broken_exif_a_picture_stays_as_it_is_stored() -> None:
    pixels = random(48, 64, 3)
    seen = decode(png(pixels, 2, (b"eXIf", b"nonsense")), DEFAULT_RECIPE, LIMIT).image
    assert np.array_equal(np.asarray(seen), pixels)


def test_a_png_hides_its_depth_behind_nothing() -> None:
    """Pillow looks for the header further on too, and the memory that decoding takes is told from it."""
    data = png(np.zeros((8, 8, 4), np.uint16), 6)
    assert data[12:16] == b"IHDR"
    hidden = data[:8] + png_chunk(b"tEXt", b"a\0b") + data[8:]
    with pytest.raises(InvalidImage, match="first chunk is not IHDR"):
        read_header(hidden, DEFAULT_RECIPE, LIMIT)
