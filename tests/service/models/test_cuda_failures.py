"""Tests of GPUs that are missing, broken, or fail later, on machines without a GPU."""

import asyncio
import json
import logging
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx
import pytest

from contract.manifest import METADATA_KEY
from service.errors import ModelError, SchedulerClosed, short_message
from service.inference.scheduler import Scheduler
from service.models.cuda import TO_DEVICE, Cudart, GpuOptions, NoGpu, has_gpu, open_library
from service.models.session import CPU, Model, load_model
from tests.support.models import gpu_runtime
from tests.support.models.gpu_runtime import OUTPUTS, Runtime, images, load_on_gpu
from tests.support.models.scheduled import Decoder


@pytest.mark.parametrize(
    ("broken", "reason"),
    [
        ("wheel", "this ONNX Runtime has no CUDA provider"),
        (
            "session",
            "no CUDA session could be opened: CUDA failure 700: an illegal memory access was encountered",
        ),
        ("silently", "no CUDA session could be opened"),
        ("run", "the GPU cannot be used: CUDA failure 700: an illegal memory access was encountered"),
    ],
)
def test_unusable_gpu_fails_or_falls_back_to_the_cpu(
    model_file: Path, caplog: pytest.LogCaptureFixture, broken: str, reason: str
) -> None:
    with pytest.raises(ModelError, match=f"^DEVICE=cuda, but {reason}.*; use DEVICE=auto or cpu") as raised:
        load_on_gpu(model_file, Runtime(broken))
    assert "secret" not in str(raised.value)
    assert "onnxruntime_src" not in str(raised.value)
    caplog.clear()
    runtime = Runtime(broken)
    model = load_model(
        model_file,
        "auto",
        1,
        runtime=runtime,
        has_gpu=lambda: True,
        open_library=lambda _runtime: runtime.cudart,
    )
    assert model.provider == CPU
    assert f"serving on the CPU: {reason}" in caplog.text
    caplog.clear()
    assert load_on_gpu(model_file, Runtime(broken), device="auto").provider == CPU
    assert "WARNING" not in caplog.text, "a machine without a GPU has nothing to fix"
    assert len(model.run([images(3)])["probabilities"]) == 3


@pytest.mark.parametrize("device", ["dev/nvidia0", "dev/nvidia11", "usr/lib/wsl/lib/libcuda.so.1"])
def test_gpu_is_detected_by_its_device_file(tmp_path: Path, device: str) -> None:
    # These exist without a GPU, or belong to another one.
    for other in (
        "dev/nvidiactl",
        "dev/nvidia-uvm",
        "dev/dri/card0",
    ):
        (tmp_path / other).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / other).touch()
    assert not has_gpu(tmp_path)
    (tmp_path / device).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / device).touch()
    assert has_gpu(tmp_path)


def test_faulty_model_file_is_not_blamed_on_the_gpu(
    model_file: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    model = onnx.load(model_file)
    model.graph.output[0].name = "something"
    path = tmp_path / "other.onnx"
    onnx.save(model, path)
    with pytest.raises(ModelError, match=r"^other\.onnx: its manifest lists"):
        load_on_gpu(path, Runtime(), device="auto")
    assert "serving on the CPU" not in caplog.text


def test_file_that_does_not_fit_its_manifest_is_not_blamed_on_the_gpu(
    model_file: Path, tmp_path: Path
) -> None:
    model = onnx.load(model_file)
    entry = next(entry for entry in model.metadata_props if entry.key == METADATA_KEY)
    manifest = json.loads(entry.value)
    manifest["classes"].append("heather")
    entry.value = json.dumps(manifest)
    path = tmp_path / "fewer.onnx"
    onnx.save(model, path)
    with pytest.raises(ModelError, match=r"^fewer\.onnx has 7 outputs for 8 classes$"):
        load_on_gpu(path, Runtime())


def test_output_of_preload_dlls_goes_to_the_log(
    model_file: Path, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    """The first line on stdout is the address, which programs read."""
    load_on_gpu(model_file, Runtime("libraries"), GpuOptions(1))
    assert capsys.readouterr().out == ""
    assert "CUDA's libraries: Failed to load libcublas.so.13" in caplog.text


def test_missing_cuda_runtime_library_is_no_gpu() -> None:
    for runtime in (SimpleNamespace(cuda_version="0.0"), SimpleNamespace()):
        with pytest.raises(NoGpu, match="CUDA's runtime library cannot be opened"):
            open_library(runtime)


def test_memory_used_is_0_if_cuda_does_not_answer() -> None:
    assert Cudart(gpu_runtime.Cudart()).memory_used() == 80_000_000_000 - 30
    assert Cudart(gpu_runtime.Cudart(status=2)).memory_used() == 0


def test_failed_copy_raises() -> None:
    with pytest.raises(RuntimeError, match="CUDA failure 700: cudaMemcpy of 4 bytes"):
        Cudart(gpu_runtime.Cudart(status=700)).copy(0, 0, 4, TO_DEVICE)


@pytest.mark.parametrize(
    ("message", "short"),
    [
        (gpu_runtime.FAILURE, "CUDA failure 700: an illegal memory access was encountered"),
        (
            "x\nCUDNN_FE failure 11: CUDNN_BACKEND_API_FAILED ; GPU=0",
            "CUDNN_FE failure 11: CUDNN_BACKEND_API_FAILED",
        ),
        (
            "CUBLAS failure 3: CUBLAS_STATUS_ALLOC_FAILED ; GPU=0",
            "CUBLAS failure 3: CUBLAS_STATUS_ALLOC_FAILED",
        ),
        ("This is an invalid model\nsecond line", "This is an invalid model"),
        ("", "RuntimeError"),
        ("x" * 400, "x" * 300),
    ],
)
def test_messages_are_shortened_to_their_cause(message: str, short: str) -> None:
    assert short_message(RuntimeError(message)) == short


def test_gpu_failure_ends_the_worker(model_file: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Every request gets SchedulerClosed (503), and the message has no details of the machine."""
    runtime = Runtime()
    model = load_on_gpu(model_file, runtime, GpuOptions(2))

    async def test() -> None:
        scheduler = Scheduler(Decoder(), Model.run, threads=1, runners=2, max_batch=2)
        scheduler.start()
        result = await scheduler.infer_crops(model, images(1), OUTPUTS)
        assert result.outputs["probabilities"].shape == (1, 7)
        runtime.broken = "run"
        requests = [scheduler.infer_crops(model, images(1), OUTPUTS) for _image in range(5)]
        errors = await asyncio.gather(*requests, return_exceptions=True)
        assert {(type(error), str(error)) for error in errors} == {
            (SchedulerClosed, "the GPU failed; the server needs a restart")
        }
        assert not scheduler.alive
        runtime.broken = ""
        with pytest.raises(SchedulerClosed):
            await scheduler.infer_crops(model, images(1), OUTPUTS)
        await scheduler.close()

    with caplog.at_level(logging.ERROR):
        asyncio.run(asyncio.wait_for(test(), 30))
    assert "the GPU failed: CUDA failure 700: an illegal memory access was encountered\n" in caplog.text


def test_errors_of_the_model_do_not_end_the_worker(fragile_model: Path, model_file: Path) -> None:
    with pytest.raises(FloatingPointError):
        load_on_gpu(fragile_model, Runtime(), GpuOptions(1)).run([np.full_like(images(1), 255)])
    model = load_on_gpu(model_file, Runtime(), GpuOptions(1))
    with pytest.raises(ValueError, match="no output nothing"):
        model.run([images(1)], ["nothing"])
    assert len(model.run([images(1)])["probabilities"]) == 1
