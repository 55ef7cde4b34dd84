"""Test the service over HTTP with ONNX Runtime's CUDA provider: batches, failures of the GPU, restarts."""

import json
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from service.models.cuda import PROVIDER
from service.models.cuda_session import GPU_WORKERS
from service.models.session import CPU
from tests.cuda_api.test_sessions import IMAGE, SHIPPED
from tests.support.cuda_stand_in.calls import Calls
from tests.support.eventually import eventually
from tests.support.serving.images import encoded, noise
from tests.support.serving.responses import check
from tests.support.serving.server import Server, serving

pytestmark = pytest.mark.cuda_api

JPEG = encoded(noise(1))


@contextmanager
def on_gpu(tmp_path: Path, **settings: Any) -> Iterator[Server]:
    environment = {"device": "cuda", "fake_log": tmp_path / "calls", "fake_no_copy": 1} | settings
    with serving(tmp_path / "log", SHIPPED, **environment) as server:
        assert server.client.get("/health").json()["provider"] == PROVIDER
        yield server


def tensor_request(count: int) -> tuple[bytes, dict[str, str]]:
    """Make a v2 request of `count` images as binary data; return its body and headers."""
    images = {
        "name": "images",
        "datatype": "UINT8",
        "shape": [count, 224, 224, 3],
        "parameters": {"binary_data_size": count * IMAGE},
    }
    head = json.dumps({"inputs": [images], "outputs": [{"name": "probabilities"}]}).encode()
    return head + bytes(count * IMAGE), {"Inference-Header-Content-Length": str(len(head))}


def test_image_is_one_launch_and_a_copy_for_each_tensor(tmp_path: Path) -> None:
    with on_gpu(tmp_path) as server:
        calls = Calls(tmp_path / "calls")
        answer = server.client.post("/predict", content=JPEG)
        assert answer.status_code == 200, answer.text
        # The crop to the GPU; the probabilities and the unfamiliarity from it
        assert calls.counts() == {"cudaMemcpy(sync)": 3, "graphLaunch": 1, "streamSynchronize": 1}


def test_tensor_is_a_copy_and_a_launch_for_each_thread(tmp_path: Path) -> None:
    with on_gpu(tmp_path) as server:
        calls = Calls(tmp_path / "calls")
        body, headers = tensor_request(20)
        answer = server.client.post("/v2/models/flowers17/infer", content=body, headers=headers)
        assert answer.status_code == 200, answer.text
        (output,) = answer.json()["outputs"]
        assert output["shape"] == [20, 17]
        sizes = [call.details for call in calls.named("cudaMemcpy(sync)", "HtoD")]
        assert sum(int(size.split()[1]) for size in sizes) == 20 * IMAGE
        assert len(sizes) == len(calls.named("graphLaunch")) <= GPU_WORKERS


def test_model_is_reloaded_while_requests_are_answered(tmp_path: Path) -> None:
    with on_gpu(tmp_path) as server:
        calls = Calls(tmp_path / "calls")
        server.process.send_signal(signal.SIGHUP)

        def answered() -> bool:
            assert server.client.post("/predict", content=JPEG).status_code == 200
            return len(calls.named("endCapture")) == 12  # of six sizes in two slots

        eventually(answered)
        assert server.client.post("/predict", content=JPEG).status_code == 200
        assert not calls.named("prohibited")


def test_failed_gpu_is_503_and_ends_the_process(tmp_path: Path) -> None:
    with on_gpu(tmp_path, fake_break=tmp_path / "broken") as server:
        assert server.client.post("/predict", content=JPEG).status_code == 200
        (tmp_path / "broken").touch()
        check(server.client.post("/predict", content=JPEG), 503, "not_ready")
        assert server.process.wait(20) == 1
        assert "the GPU failed: CUDA failure 700" in server.log


def test_failed_worker_is_restarted(tmp_path: Path) -> None:
    with on_gpu(tmp_path, fake_break=tmp_path / "broken", workers=2) as server:
        (tmp_path / "broken").touch()
        assert server.client.post("/predict", content=JPEG).status_code == 503
        (tmp_path / "broken").unlink()
        eventually(lambda: "has ended with 1" in server.log)

        def answered() -> bool:
            with httpx.Client(base_url=server.address, timeout=30) as client:
                try:
                    return client.post("/predict", content=JPEG).status_code == 200
                except httpx.TransportError:  # the worker that ends
                    return False

        for _request in range(10):
            eventually(answered)


def test_missing_device_is_the_cpu(tmp_path: Path) -> None:
    with serving(tmp_path / "log", SHIPPED, device="auto", fake_none=1) as server:
        assert server.client.get("/health").json()["provider"] == CPU
        assert server.client.post("/predict", content=JPEG).json()["predictions"]
