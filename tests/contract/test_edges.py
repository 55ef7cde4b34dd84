"""Test the edge cases that mutation testing found untested: see docs/testing.md."""

import io
import json
from collections.abc import Callable, Iterator
from typing import Any, ClassVar

import numpy as np
import pytest
from PIL import Image, ImageFile

from contract.fields import ManifestError
from contract.manifest import Manifest, Metrics, Tensor
from contract.picture import InvalidImage, Picture, UnsupportedImage, _reason, decode, read_header, sniff
from contract.preprocess import square
from contract.recipe import DEFAULT_RECIPE, RECIPES, TORCHVISION_RECIPE
from tests.support.drawing.pictures import encode, png, png_chunk, scene

LIMIT = 10**8


def test_jpeg_memory_is_estimated_for_the_scaled_size() -> None:
    image = scene(2048, 1024)
    header = read_header(encode(image, "JPEG"), DEFAULT_RECIPE, LIMIT)
    assert header.image.size == (512, 256)
    assert header.bytes == 8 * 512 * 256
    assert (header.width, header.height) == (2048, 1024)


def test_progressive_jpeg_memory_includes_full_size_coefficients() -> None:
    data = io.BytesIO()
    scene(2048, 1024).save(data, "JPEG", progressive=True)
    header = read_header(data.getvalue(), DEFAULT_RECIPE, LIMIT)
    assert header.bytes == 8 * 512 * 256 + 2 * 3 * 2048 * 1024


def test_png_memory_is_estimated_for_all_pixels() -> None:
    assert read_header(encode(scene(640, 320), "PNG"), DEFAULT_RECIPE, LIMIT).bytes == 8 * 640 * 320


class Spy(ImageFile.ImageFile):
    """A Pillow format that is tried on any bytes, and records them."""

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
def test_only_the_format_of_the_signature_is_tried(name: str, spy: list[bytes]) -> None:
    data = SIGNATURES[name] + b"x" * 400
    with pytest.raises(OSError, match="cannot identify"):
        Image.open(io.BytesIO(b"nothing"))
    assert spy == [b"noth"], "Pillow by itself tries every format"
    with pytest.raises(InvalidImage, match=f"^the {name} file is corrupt or truncated: "):
        decode(data, DEFAULT_RECIPE, LIMIT)
    assert len(spy) == 1


def test_unknown_signature_names_the_supported_formats() -> None:
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
        (16, [b"xxxx", b"0000", b"heic"], None),  # beyond the end of the box
        (2**31, [b"xxxx", *[b"0000"] * 61, b"heic"], None),  # beyond the 256 bytes that are read
        (2**31, [b"xxxx", *[b"0000"] * 60, b"heic"], "HEIF"),
    ],
)
def test_format_by_ftyp_brands(length: int, brands: list[bytes], name: str | None) -> None:
    assert sniff(length.to_bytes(4, "big") + b"ftyp" + b"".join(brands)) == name


def random(*shape: int, dtype: type[np.generic] = np.uint8, high: int = 256) -> np.ndarray:
    return np.random.default_rng(1).integers(0, high, shape).astype(dtype)


def test_alpha_over_white_in_a_picture_of_several_strips() -> None:
    pixels = random(1300, 1700, 4)
    seen = np.asarray(decode(encode(Image.fromarray(pixels), "PNG"), DEFAULT_RECIPE, LIMIT).image)
    white = Image.new("RGBA", (1700, 1300), "white")
    expected = Image.alpha_composite(white, Image.fromarray(pixels)).convert("RGB")
    assert np.array_equal(seen, np.asarray(expected))


def test_16_bit_levels_in_a_picture_of_several_strips() -> None:
    levels = random(1300, 1700, dtype=np.uint16, high=65536)
    seen = np.asarray(decode(encode(Image.fromarray(levels), "PNG"), DEFAULT_RECIPE, LIMIT).image)
    assert np.array_equal(seen, np.rint(levels / 257).astype(np.uint8))


@pytest.mark.parametrize("levels", [(0, 65536), (-1, 65535), (-1, 65536)])
def test_levels_beyond_16_bits_are_refused(levels: tuple[int, int]) -> None:
    data = encode(Image.fromarray(np.array([levels] * 2, dtype=np.int32)), "TIFF")
    with pytest.raises(
        InvalidImage, match=r"^32-bit levels have no defined white; save it with 8 or 16 bits$"
    ):
        decode(data, DEFAULT_RECIPE, LIMIT)


def test_32_bit_levels_from_0_to_65535_are_scaled() -> None:
    data = encode(Image.fromarray(np.array([[0, 65535]] * 2, dtype=np.int32)), "TIFF")
    assert np.asarray(decode(data, DEFAULT_RECIPE, LIMIT).image).tolist() == [[0, 255]] * 2


@pytest.mark.parametrize("upright", [False, True])
def test_torchvision_recipe_uses_the_middle_of_a_narrow_picture(upright: bool) -> None:
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
        (scene(64, 48).convert("CMYK"), "TIFF", {}, "CMYK"),  # its profile is for CMYK
        (scene(64, 48).quantize(8), "PNG", {}, "RGB"),
        (GREY, "PNG", {}, "L"),
        (GREY, "PNG", {"transparency": 7}, "L"),
        (BITS, "PNG", {}, "L"),
        (BITS, "PNG", {"transparency": 0}, "L"),
    ],
)
def test_picture_keeps_the_mode_of_its_profile(
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


def test_truncated_file_names_its_format_and_the_reason() -> None:
    data = encode(scene(640, 480), "JPEG")
    with pytest.raises(
        InvalidImage, match=r"^the JPEG file is corrupt or truncated: image file is truncated \("
    ):
        decode(data[: len(data) // 2], DEFAULT_RECIPE, LIMIT)


def test_lab_without_a_profile_is_converted_to_srgb() -> None:
    """L is 0 to 255, a and b are centred at 128: black, white, grey 119 and red of sRGB."""
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


def test_mean_may_be_0_and_255() -> None:
    assert manifest().mean == (0, 0.5, 255)


@pytest.mark.parametrize("side", ["inputs", "outputs"])
def test_manifest_without_inputs_or_outputs_is_refused(side: str) -> None:
    with pytest.raises(ManifestError, match=f"^{side} is empty$"):
        manifest(**{side: ()})


def test_message_quotes_at_most_five_classes() -> None:
    with pytest.raises(ManifestError, match=r"not \['a', 'a', 'a', 'a', 'a'\]$"):
        manifest(classes=("a",) * 1000)


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_accuracies_of_0_and_1_over_one_image_are_valid(share: float) -> None:
    assert Metrics("d", 1, 1, share, share).top5 == share
    with pytest.raises(ManifestError, match="must be 0 to 1, in this order"):
        Metrics("d", 1, 1, share, 1.5)


def read_back(change: Callable[[dict[str, Any]], None]) -> Manifest:
    record = json.loads(manifest().to_json())
    change(record)
    return Manifest.from_json(json.dumps(record))


def test_manifest_without_a_newer_recipe_field_uses_its_default() -> None:
    assert read_back(lambda record: record["preprocessing"].pop("whole")) == manifest()


def test_integers_are_read_as_floats() -> None:
    read = read_back(lambda record: record["preprocessing"].update(mean=[0, 128, 255]))
    assert read.mean == (0.0, 128.0, 255.0)
    assert {type(value) for value in read.mean} == {float}


def test_unknown_preprocessing_id_names_the_known_ones() -> None:
    with pytest.raises(ManifestError, match=f"'mine' is unknown; known: {', '.join(RECIPES)}$"):
        read_back(lambda record: record["preprocessing"].update(id="mine"))


def test_json_is_indented_and_not_escaped() -> None:
    lines = manifest(classes=("Löwenzahn", "ひまわり")).to_json().splitlines()
    assert ' "name": "n",' in lines
    assert '  "Löwenzahn",' in lines
    assert '  "ひまわり"' in lines


@pytest.mark.parametrize(
    ("error", "reason"),
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
def test_reason_is_the_first_line_of_the_error(error: Exception, reason: str) -> None:
    assert _reason(error) == reason


def test_broken_file_names_its_format_and_the_reason() -> None:
    with pytest.raises(
        InvalidImage, match=r"^the GIF file is corrupt or truncated: cannot identify image file$"
    ):
        decode(b"GIF89a" + b"x" * 40, DEFAULT_RECIPE, LIMIT)


def test_picture_with_broken_exif_is_not_rotated() -> None:
    pixels = random(48, 64, 3)
    seen = decode(png(pixels, 2, (b"eXIf", b"nonsense")), DEFAULT_RECIPE, LIMIT).image
    assert np.array_equal(np.asarray(seen), pixels)


def test_png_with_a_chunk_before_ihdr_is_invalid() -> None:
    """Pillow accepts IHDR later as well, and the memory estimate depends on it."""
    data = png(np.zeros((8, 8, 4), np.uint16), 6)
    assert data[12:16] == b"IHDR"
    hidden = data[:8] + png_chunk(b"tEXt", b"a\0b") + data[8:]
    with pytest.raises(InvalidImage, match="first chunk is not IHDR"):
        read_header(hidden, DEFAULT_RECIPE, LIMIT)
