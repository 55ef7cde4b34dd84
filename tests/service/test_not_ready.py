"""When the inference worker has ended, everybody is told so."""

import asyncio
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import httpx
import uvicorn

from service.app import create_app
from service.cuda import PROVIDER, GpuOptions
from service.engine import Engine
from service.repository import Load, read_all
from service.session import load_model
from service.settings import Settings
from tests.service.images import plain
from tests.service.runtime import Runtime
from tests.service.test_errors import check


@contextmanager
def running(model: Path, load: Load) -> Iterator[tuple[httpx.Client, asyncio.AbstractEventLoop, Engine]]:
    """The application in a thread of this process, so that what it stands on can be broken."""
    settings = Settings(model=model)
    app = create_app(settings, read_all(settings, load), load, threads=1)
    server = uvicorn.Server(uvicorn.Config(app, log_level="warning"))
    with socket.create_server(("127.0.0.1", 0)) as listener, asyncio.Runner() as runner:
        thread = threading.Thread(target=lambda: runner.run(server.serve(sockets=[listener])))
        thread.start()
        try:
            address = f"http://127.0.0.1:{listener.getsockname()[1]}"
            with httpx.Client(base_url=address, timeout=30) as client:
                assert client.post("/predict", content=plain(1)).status_code == 200
                yield client, runner.get_loop(), app.state.engine
        finally:
            server.should_exit = True
            thread.join()


def check_not_ready(client: httpx.Client, engine: Engine) -> None:
    for response in (
        client.post("/predict", content=plain(1)),
        client.get("/health"),
        client.get("/health/ready"),
    ):
        check(response, 503, "not_ready")
    assert client.get("/health/live").status_code == 200
    while not engine.failed:
        pass  # until it has been noticed: `python -m service` ends then


def test_a_dead_worker_is_503_and_not_ready_but_alive(model_file: Path) -> None:
    load = partial(load_model, device="cpu", threads=1)
    with running(model_file, load) as (client, loop, engine):
        batcher = next(engine.repository.served).batcher
        asyncio.run_coroutine_threadsafe(batcher.close(), loop).result(10)
        check_not_ready(client, engine)


def test_a_gpu_that_fails_is_503_and_not_ready_but_alive(model_file: Path) -> None:
    """The process does not go on by the CPU: it would be slow, and say that it is not. It ends, and what
    DEVICE means is decided anew when a supervisor starts it again.
    """
    runtime = Runtime()
    load = partial(load_model, device="auto", threads=1, gpu=GpuOptions(4), runtime=runtime)
    with running(model_file, load) as (client, _loop, engine):
        assert client.get("/health").json()["provider"] == PROVIDER
        runtime.broken = "run"
        check(client.post("/predict", content=plain(1)), 503, "not_ready")
        check_not_ready(client, engine)
