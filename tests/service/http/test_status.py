"""Health and errors after the inference worker has ended."""

import asyncio
from functools import partial
from pathlib import Path

import httpx

from service.inference.engine import Engine
from service.models.cuda import PROVIDER, GpuOptions
from service.models.session import load_model
from tests.support.eventually import eventually
from tests.support.models.gpu_runtime import Runtime, load_on_gpu
from tests.support.serving.images import plain
from tests.support.serving.in_process import serving_in_process
from tests.support.serving.responses import check


def check_not_ready(client: httpx.Client, engine: Engine) -> None:
    for response in (
        client.post("/predict", content=plain(1)),
        client.get("/health"),
        client.get("/health/ready"),
    ):
        check(response, 503, "not_ready")
    assert client.get("/health/live").status_code == 200
    eventually(lambda: engine.failed)  # `python -m service` ends then


def test_dead_worker_is_503_and_not_ready_but_live(model_file: Path) -> None:
    load = partial(load_model, device="cpu", threads=1)
    with serving_in_process(model_file, load, threads=1) as running:
        asyncio.run_coroutine_threadsafe(running.engine.scheduler.close(), running.loop).result(10)
        check_not_ready(running.client, running.engine)


def test_failed_gpu_is_503_and_not_ready_but_live(model_file: Path) -> None:
    """The process does not fall back to the CPU, which would be slow without anyone noticing.

    It ends, and DEVICE is evaluated again when a supervisor restarts it.
    """
    runtime = Runtime()
    load = partial(load_on_gpu, runtime=runtime, gpu=GpuOptions(4), device="auto")
    with serving_in_process(model_file, load, threads=1) as running:
        assert running.client.get("/health").json()["provider"] == PROVIDER
        runtime.broken = "run"
        check(running.client.post("/predict", content=plain(1)), 503, "not_ready")
        check_not_ready(running.client, running.engine)
