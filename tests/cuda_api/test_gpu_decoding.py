"""Test decoding on the GPU with ONNX Runtime's CUDA provider, and with NVIDIA's nvImageCodec on the CPU."""

import json
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest

from contract.recipe import DEFAULT_RECIPE
from service.device_crops import DeviceCrops
from service.imaging.decode import decode_crops
from service.imaging.decoder import DecodeClock, Decoder, ThreadDecoder
from service.imaging.gpu_decoder import GpuDecoder, NvImageCodec
from service.imaging.scaling import Scaler, crops_of, graph
from service.inference.decoders import open_decoder
from service.models.cuda import PROVIDER, Cudart, open_library
from service.models.cuda_session import OWNER
from service.settings import Settings
from tests.cuda_api.test_sessions import IMAGE, SHIPPED, calls_from_now, on_gpu
from tests.support.nvimgcodec import FakeNvImageCodec, pixels
from tests.support.serving.images import encoded, noise

pytestmark = pytest.mark.cuda_api

JPEG = encoded(noise(1))
PIXELS = 4_000_000


class Codec:
    """Decode by Pillow into the stand-in's device memory, which is that of the host."""

    def decode(self, files: Sequence[bytes]) -> list[Any]:
        return [pixels(file) for file in files]

    def address(self, image: Any) -> int:
        return int(image.ctypes.data)


def decode(decoder: Decoder, file: bytes, crops: int = 1) -> Any:
    return decoder.decode(file, DEFAULT_RECIPE, crops, False, DecodeClock())


@pytest.mark.parametrize("rows_first", [False, True])
def test_scaling_runs_on_the_gpu(rows_first: bool, tmp_path: Path) -> None:
    options = ort.SessionOptions()
    options.enable_profiling, options.profile_file_prefix = True, str(tmp_path / "profile")
    session = ort.InferenceSession(graph(rows_first), options, providers=[PROVIDER], enable_fallback=0)
    scaler = Scaler(ort, [PROVIDER], "cuda")
    scaler._sessions = [session] * 2
    image = ort.OrtValue.ortvalue_from_shape_and_type([240, 320, 3], np.uint8, "cuda", 0)
    crop = ort.OrtValue.ortvalue_from_shape_and_type([224, 224, 3], np.uint8, "cuda", 0)
    (weights,) = crops_of(320, 240, DEFAULT_RECIPE, 1)
    scaler.scale(image.data_ptr(), 320, weights, crop.data_ptr())
    events = json.loads(Path(session.end_profiling()).read_text())
    nodes = [event["args"] for event in events if event["cat"] == "Node" and "provider" in event["args"]]
    assert Counter(node["op_name"] for node in nodes)["MatMul"] == 2
    assert {node["provider"] for node in nodes} == {PROVIDER}
    assert not [node for node in nodes if "Memcpy" in node["op_name"]]


def test_crop_goes_from_the_decoder_to_the_model_on_the_gpu() -> None:
    model = on_gpu(SHIPPED, max_batch=4)
    decoder = GpuDecoder(ThreadDecoder(PIXELS), Codec, OWNER, ort, [PROVIDER], "cuda", PIXELS, 1, 0)
    image = decode(decoder, JPEG)
    assert isinstance(image.crops, DeviceCrops)
    calls = calls_from_now()
    model.run([image.crops, image.crops])
    copies = [call.details.split()[:2] for call in calls.named("cudaMemcpy(sync)")]
    assert copies[:-1] == [["DtoD", str(IMAGE)]] * 2, "the crops pass the host"
    assert not calls.named("prohibited")
    Cudart(open_library(ort)).synchronize()


@pytest.fixture(scope="module")
def nvimgcodec() -> GpuDecoder:
    """The real package, with libjpeg-turbo instead of nvJPEG."""
    module = pytest.importorskip("nvidia.nvimgcodec", reason="the extra gpu-decode is not installed")
    open_codec, owner = partial(NvImageCodec, module, "cpu", 1), ThreadPoolExecutor(1)
    return GpuDecoder(
        ThreadDecoder(PIXELS), open_codec, owner, ort, ["CPUExecutionProvider"], "cpu", PIXELS, 1, 0
    )


def test_setting_opens_a_decoder_on_the_gpu() -> None:
    module = FakeNvImageCodec(device="cuda")
    decoder = open_decoder(Settings(decode="gpu"), PROVIDER, 2, {"nvidia.nvimgcodec": module}.__getitem__)
    image = decode(decoder, JPEG)
    assert isinstance(image.crops, DeviceCrops)
    assert (image.width, image.height, len(module.batches)) == (320, 240, 2)  # after the test picture


@pytest.mark.parametrize("subsampling", [0, 1, 2])
def test_nvimagecodec_decodes_to_the_pixels_of_libjpeg(subsampling: int, nvimgcodec: GpuDecoder) -> None:
    file = encoded(noise(subsampling, 640, 530), subsampling=subsampling)
    image = decode(nvimgcodec, file, crops=10)
    expected = decode_crops(file, replace(DEFAULT_RECIPE, scaled_jpeg=False), PIXELS, 10)
    assert isinstance(image.crops, DeviceCrops)
    assert np.array_equal(image.crops, expected.crops)


def test_nvimagecodec_decodes_what_is_intact_among_damaged_files(nvimgcodec: GpuDecoder) -> None:
    images = nvimgcodec._owner.submit(nvimgcodec._codec.decode, [JPEG, b"no image", b"", JPEG]).result()
    assert [image is not None for image in images] == [True, False, False, True]
    for image in (images[0], images[3]):
        assert image.shape == (240, 320, 3)
