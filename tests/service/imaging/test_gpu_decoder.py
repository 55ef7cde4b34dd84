"""Test which files the GPU decoder takes, and that all others are as without it.

It runs on the CPU: a stand-in for nvImageCodec, and ONNX Runtime's provider for the CPU.
"""

import threading
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import replace
from functools import partial

import numpy as np
import onnxruntime as ort
import pytest
from PIL import Image, ImageCms

from contract.picture import ImageError, TooManyPixels
from contract.recipe import DEFAULT_RECIPE, RECIPES, Recipe
from service.device_crops import DeviceCrops
from service.imaging.decode import DecodedImage, SlowPicture, decode_crops
from service.imaging.decoder import DecodeClock, Decoder, ThreadDecoder
from service.imaging.gpu_decoder import GpuDecoder, NoGpuDecoding, NvImageCodec
from tests.support.drawing.pictures import orientation_tag
from tests.support.eventually import eventually
from tests.support.nvimgcodec import FakeNvImageCodec
from tests.support.serving.images import encoded, noise

PIXELS = 20_000_000
JPEG = encoded(noise(1))
PROFILE = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
LARGE = encoded(Image.new("RGB", (4000, 3800)))  # 15.2 million pixels

TAKEN = {
    "4:2:0": JPEG,
    "4:2:2": encoded(noise(2), subsampling=1),
    "4:4:4": encoded(noise(3), subsampling=0),
    "of high quality": encoded(noise(4), quality=98, optimize=True),
    "with restarts": encoded(noise(5), restart_marker_rows=1),
    "large": encoded(noise(6, 1200, 900)),
    "of one pixel": encoded(noise(7, 1, 1)),
    "with a picture after it": JPEG + encoded(noise(8)),
    "upright": encoded(noise(9), exif=orientation_tag(1)),
}
NOT_TAKEN = {
    "progressive": encoded(noise(1), progressive=True),
    "grey": encoded(noise(1).convert("L")),
    "CMYK": encoded(noise(1).convert("CMYK")),
    "RGB": encoded(noise(1), keep_rgb=True),
    "turned": encoded(noise(1), exif=orientation_tag(6)),
    "with a profile": encoded(noise(1), icc_profile=PROFILE),
    "very wide": encoded(noise(1, 1700, 100)),
    "cut off": JPEG[: len(JPEG) // 2],
    "without its end": JPEG[:-2],
    "without tables": JPEG.replace(b"\xff\xdb", b"\xff\xfe"),
    "PNG": encoded(noise(1), "PNG"),
    "no image": b"hello",
    "empty": b"",
}


def decoder_on(
    module: FakeNvImageCodec,
    owner: Executor,
    others: Decoder | None = None,
    max_pixels: int = PIXELS,
    timeout: float = 0.0,
) -> GpuDecoder:
    others = others or ThreadDecoder(max_pixels)
    open_codec = partial(NvImageCodec, module, "cpu", 1)
    providers = ["CPUExecutionProvider"]
    return GpuDecoder(others, open_codec, owner, ort, providers, "cpu", max_pixels, 2, timeout)


@pytest.fixture
def module() -> FakeNvImageCodec:
    return FakeNvImageCodec()


@pytest.fixture
def decoder(module: FakeNvImageCodec) -> GpuDecoder:
    decoder = decoder_on(module, ThreadPoolExecutor(1))
    module.batches.clear()  # of the picture that is decoded at the start
    return decoder


def outcome(decoder: Decoder, data: bytes, recipe: Recipe = DEFAULT_RECIPE, slow: bool = False) -> object:
    """Decode to the central crop; return what tells two outcomes apart."""
    try:
        image = decoder.decode(data, recipe, 1, slow, DecodeClock())
    except (ImageError, SlowPicture) as error:
        return type(error), str(error)
    facts = image.width, image.height, image.format, image.profile_ignored, image.preprocessing
    return *facts, np.asarray(image.crops).tobytes()


@pytest.mark.parametrize("recipe", RECIPES.values(), ids=RECIPES)
@pytest.mark.parametrize("crops", [1, 10])
@pytest.mark.parametrize("name", TAKEN)
def test_baseline_jpeg_is_decoded_by_the_codec(
    name: str, crops: int, recipe: Recipe, module: FakeNvImageCodec, decoder: GpuDecoder
) -> None:
    clock = DecodeClock()
    image = decoder.decode(TAKEN[name], recipe, crops, False, clock)
    at_full_size = decode_crops(TAKEN[name], replace(recipe, scaled_jpeg=False), PIXELS, crops)
    assert isinstance(image.crops, DeviceCrops)
    assert np.array_equal(image.crops, at_full_size.crops)
    assert (image.width, image.height, image.format) == (
        at_full_size.width,
        at_full_size.height,
        "JPEG",
    )
    assert image.preprocessing == f"bilinear-{'whole' if recipe.whole else 'box'}-256-224-nvjpeg"
    assert image.began <= clock.began <= image.ended
    assert len(module.batches) == 1


def test_codec_is_given_nothing_after_the_picture(module: FakeNvImageCodec, decoder: GpuDecoder) -> None:
    outcome(decoder, JPEG + b"film" * 1000)
    assert module.batches == [[len(JPEG)]]


@pytest.mark.parametrize("recipe", RECIPES.values(), ids=RECIPES)
@pytest.mark.parametrize("name", NOT_TAKEN)
def test_every_other_file_is_as_without_a_gpu(
    name: str, recipe: Recipe, module: FakeNvImageCodec, decoder: GpuDecoder
) -> None:
    file = NOT_TAKEN[name]
    assert outcome(decoder, file, recipe) == outcome(ThreadDecoder(PIXELS), file, recipe)
    assert module.batches == []


@pytest.mark.parametrize("slow", [False, True])
def test_large_and_slow_images_are_as_without_a_gpu(
    slow: bool, module: FakeNvImageCodec, decoder: GpuDecoder
) -> None:
    expected = outcome(ThreadDecoder(PIXELS), LARGE, slow=slow)
    assert outcome(decoder, LARGE, slow=slow) == expected
    assert outcome(decoder, JPEG, slow=True) == outcome(ThreadDecoder(PIXELS), JPEG, slow=True)
    assert module.batches == []


@pytest.mark.parametrize("max_pixels", [320 * 240 - 1, 320 * 240])
def test_limits_of_pixels_and_memory_are_the_same(max_pixels: int, module: FakeNvImageCodec) -> None:
    decoder = decoder_on(module, ThreadPoolExecutor(1), max_pixels=max_pixels)
    expected = outcome(ThreadDecoder(max_pixels), JPEG)
    assert isinstance(expected, tuple)
    assert expected[0] is TooManyPixels
    assert outcome(decoder, JPEG) == expected


def test_file_that_the_codec_does_not_decode_is_as_without_a_gpu(
    module: FakeNvImageCodec, decoder: GpuDecoder
) -> None:
    module.decodes = lambda file: len(file) != len(JPEG)
    assert outcome(decoder, JPEG) == outcome(ThreadDecoder(PIXELS), JPEG)
    assert module.batches == [[len(JPEG)]]


def test_error_of_the_codec_fails_no_image(module: FakeNvImageCodec, decoder: GpuDecoder) -> None:
    def fail() -> None:
        raise RuntimeError("CUDA failure 700")

    module.before = fail
    assert outcome(decoder, JPEG) == outcome(ThreadDecoder(PIXELS), JPEG)
    module.before = lambda: None
    image = decoder.decode(JPEG, DEFAULT_RECIPE, 1, False, DecodeClock())
    assert image.preprocessing is not None


def test_images_that_wait_are_decoded_together(module: FakeNvImageCodec, decoder: GpuDecoder) -> None:
    started, finish = threading.Event(), threading.Event()

    def wait() -> None:
        started.set()
        assert finish.wait(30)

    module.before = wait
    files = [encoded(noise(seed)) for seed in range(6)]
    with ThreadPoolExecutor(6) as threads:
        first = threads.submit(decoder.decode, files[0], DEFAULT_RECIPE, 1, False, DecodeClock())
        assert started.wait(30)
        clocks = [DecodeClock() for _file in files[1:]]
        others = [
            threads.submit(decoder.decode, file, DEFAULT_RECIPE, 1, False, clock)
            for file, clock in zip(files[1:], clocks, strict=True)
        ]
        eventually(lambda: len(decoder._waiting) == 5)
        assert all(clock.began == float("inf") for clock in clocks), "waiting counts as decoding"
        finish.set()
        images: list[DecodedImage] = [result.result(30) for result in (first, *others)]
    assert [len(batch) for batch in module.batches] == [1, 5]
    for file, image in zip(files, images, strict=True):
        assert np.array_equal(image.crops, decode_crops(file, DEFAULT_RECIPE, PIXELS, 1).crops)


def test_codec_that_decodes_nothing_is_refused_at_the_start(module: FakeNvImageCodec) -> None:
    module.decodes = lambda _file: False
    with pytest.raises(NoGpuDecoding, match="nvidia-nvjpeg"):
        decoder_on(module, ThreadPoolExecutor(1))


def test_parts_of_crops_are_views_of_the_same_memory(decoder: GpuDecoder) -> None:
    crops = decoder.decode(JPEG, DEFAULT_RECIPE, 10, False, DecodeClock()).crops
    assert isinstance(crops, DeviceCrops)
    part = crops[3:][1:4]
    assert (len(crops), len(part), part.nbytes) == (10, 3, 3 * 224 * 224 * 3)
    assert part.address == crops.address + 4 * 224 * 224 * 3
    assert np.array_equal(part, np.asarray(crops)[4:7])
    assert len(crops[12:]) == 0


def test_decoding_that_hangs_is_noticed() -> None:
    """Images behind it wait in the same thread, and no clock of theirs runs."""
    module, released = FakeNvImageCodec(), threading.Event()
    decoder = decoder_on(module, ThreadPoolExecutor(1), timeout=1e-3)

    def hang() -> None:
        assert released.wait(20)

    module.before = hang
    with ThreadPoolExecutor(3) as callers:
        images = [callers.submit(outcome, decoder, JPEG) for _image in range(3)]
        eventually(lambda: decoder.stuck_for)
        released.set()
        assert len({image.result() for image in images}) == 1
    assert decoder.stuck_for == 0
