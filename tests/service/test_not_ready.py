"""When the inference worker has ended, everybody is told so."""

import asyncio
import time
from functools import partial
from pathlib import Path

import httpx

from service.cuda import PROVIDER, GpuOptions
from service.engine import Engine
from service.session import load_model
from tests.service.answers import check
from tests.service.images import plain
from tests.service.inside import inside
from tests.service.runtime import Runtime


def check_not_ready(client: httpx.Client, engine: Engine) -> None:
    for response in (
        client.post("/predict", content=plain(1)),
        client.get("/health"),
        client.get("/health/ready"),
    ):
        check(response, 503, "not_ready")
    assert client.get("/health/live").status_code == 200
    while not engine.failed:
        time.sleep(0.01)  # until it has been noticed: `python -m service` ends then


def test_a_dead_worker_is_503_and_not_ready_but_alive(model_file: Path) -> None:
    load = partial(load_model, device="cpu", threads=1)
    with inside(model_file, load, threads=1) as (client, loop, engine):
        asyncio.run_coroutine_threadsafe(engine.scheduler.close(), loop).result(10)
        check_not_ready(client, engine)


def test_a_gpu_that_fails_is_503_and_not_ready_but_alive(model_file: Path) -> None:
    """The process does not go on by the CPU: it would be slow, and say that it is not. It ends, and what
    DEVICE means is decided anew when a supervisor starts it again.
    """
    runtime = Runtime()
    load = partial(load_model, device="auto", threads=1, gpu=GpuOptions(4), runtime=runtime)
    with inside(model_file, load, threads=1) as (client, _loop, engine):
        assert client.get("/health").json()["provider"] == PROVIDER
        runtime.broken = "run"
        check(client.post("/predict", content=plain(1)), 503, "not_ready")
        check_not_ready(client, engine)
