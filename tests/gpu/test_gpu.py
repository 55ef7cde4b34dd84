"""Test inference on a real GPU: results, buckets, memory, start-up.

The tests run without torch, which would load other CUDA libraries. GPU_MODELS names a folder of model files
to test (scripts/gpu-check makes one); without it, the shipped ones are tested.
"""

import os
import signal
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest

from contract.preprocess import Pixels
from service.errors import ModelError
from service.models.cuda import PROVIDER, GpuOptions
from service.models.cuda_session import GpuSession
from service.models.session import CPU, Model, load_model
from tests.support.checkout import ROOT
from tests.support.serving.images import encoded, noise
from tests.support.serving.server import serving

pytestmark = pytest.mark.gpu

SHIPPED = ROOT / "models" / "flowers17.onnx"
FILES = sorted(Path(os.environ.get("GPU_MODELS", SHIPPED.parent)).glob("*.onnx"))
assert FILES, "GPU_MODELS names a folder without model files"
# Largest difference of a probability, by precision: float32 differs by the order of additions, TF32 and
# float16 by their 10 bits, int8 by whole steps.
TOLERANCE = {"fp32": 1e-4, "tf32": 2e-2, "fp16": 1e-2, "int8": 0.05}


def images(count: int) -> Pixels:
    return np.random.default_rng(0).integers(0, 256, (count, 224, 224, 3), np.uint8)


def probabilities(model: Model, batch: Pixels) -> np.ndarray:
    return model.run([batch])["probabilities"]


@pytest.mark.parametrize("tf32", [False, True])
@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_probabilities_match_the_cpu(file: Path, tf32: bool) -> None:
    model = load_model(file, "cuda", 1, GpuOptions(8, tf32=tf32))
    assert model.provider == PROVIDER
    on_cpu = load_model(file, "cpu", 1)
    precision = model.manifest.precision
    tolerance = TOLERANCE["tf32" if tf32 and precision == "fp32" else precision]
    for size in (8, 5, 1):  # full, padded, and the smallest
        difference = np.abs(probabilities(model, images(size)) - probabilities(on_cpu, images(size)))
        assert difference.max() <= tolerance


def test_every_batch_size_matches_single_images() -> None:
    model, batch = load_model(SHIPPED, "cuda", 1, GpuOptions(12)), images(12)
    single = np.concatenate([probabilities(model, batch[i : i + 1]) for i in range(12)])
    for size in [*range(1, 13), *range(11, 0, -1)]:
        assert np.abs(probabilities(model, batch[:size]) - single[:size]).max() <= TOLERANCE["int8"]


def test_threads_get_the_results_of_their_own_images() -> None:
    model = load_model(SHIPPED, "cuda", 1, GpuOptions(8))
    batches = [np.full((size, 224, 224, 3), 30 * size, np.uint8) for size in range(1, 9)] * 20
    expected = [probabilities(model, batch) for batch in batches[:8]] * 20
    with ThreadPoolExecutor(4) as threads:
        for values, single in zip(
            threads.map(partial(probabilities, model), batches), expected, strict=True
        ):
            assert np.abs(values - single).max() <= TOLERANCE["fp32"]


def test_every_requested_output_is_returned() -> None:
    names = ["conv5", "probabilities", "fc7"]
    outputs = load_model(SHIPPED, "cuda", 1, GpuOptions(1)).run([images(1)], names)
    assert {name: values.ndim for name, values in outputs.items()} == {
        "conv5": 4,
        "probabilities": 2,
        "fc7": 2,
    }
    assert outputs["probabilities"].sum() == pytest.approx(1, abs=1e-3)


def test_host_memory_is_page_locked_and_released() -> None:
    for _again in range(3):  # locking the same memory again fails if it is still locked
        session = load_model(SHIPPED, "cuda", 1, GpuOptions(4)).session
        assert isinstance(session, GpuSession)
        assert session.pinned


def test_memory_used_on_the_gpu_is_reported() -> None:
    model = load_model(SHIPPED, "cuda", 1)
    used = model.gpu_memory_used
    assert len(SHIPPED.read_bytes()) < used < 10**12
    assert model.provider == PROVIDER


def test_too_little_gpu_memory_raises_or_falls_back_to_the_cpu() -> None:
    options = GpuOptions(4, memory_bytes=1_000_000)
    with pytest.raises(ModelError, match=r"DEVICE=cuda, but (the GPU cannot|no CUDA session)"):
        load_model(SHIPPED, "cuda", 1, options)
    assert load_model(SHIPPED, "auto", 1, options).provider == CPU
    assert load_model(SHIPPED, "cuda", 1).provider == PROVIDER  # CUDA still works after the failure


def test_hidden_gpu_falls_back_to_the_cpu(tmp_path: Path) -> None:
    with serving(tmp_path / "log", SHIPPED, device="auto", cuda_visible_devices="-1") as server:
        assert server.client.get("/health").json()["provider"] == CPU
        assert "serving on the CPU: " in server.log


def test_service_on_the_gpu_reloads_its_model(tmp_path: Path) -> None:
    assert PROVIDER in ort.get_available_providers()
    with serving(tmp_path / "log", SHIPPED, device="cuda") as server:
        assert server.client.get("/health").json()["provider"] == PROVIDER
        before = server.client.post("/predict", content=encoded(noise(1))).json()["predictions"]
        server.process.send_signal(signal.SIGHUP)
        for _again in range(50):
            answer = server.client.post("/predict", content=encoded(noise(1)))
            assert answer.status_code == 200, answer.text
            assert answer.json()["predictions"][0]["label"] == before[0]["label"]


def test_images_decoded_on_the_gpu_are_named_and_match_those_of_the_cpu(tmp_path: Path) -> None:
    answers = {}
    for decode in ("cpu", "gpu"):
        with serving(tmp_path / "log", SHIPPED, device="cuda", decode=decode) as server:
            answers[decode] = [
                server.client.post("/predict?top_k=17", content=encoded(noise(seed, 500, 375))).json()
                for seed in range(8)
            ]
    for on_cpu, on_gpu in zip(answers["cpu"], answers["gpu"], strict=True):
        assert "preprocessing" not in on_cpu["image"]
        assert on_gpu["image"]["preprocessing"] == "bilinear-box-256-224-nvjpeg"
        cpu, gpu = (
            {prediction["label"]: prediction["probability"] for prediction in answer["predictions"]}
            for answer in (on_cpu, on_gpu)
        )
        assert max(abs(cpu[label] - gpu[label]) for label in cpu) <= TOLERANCE["int8"]
