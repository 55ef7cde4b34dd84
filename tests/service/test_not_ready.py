"""When the inference worker has ended, everybody is told so."""

import asyncio
import socket
import threading
from functools import partial
from pathlib import Path

import httpx
import uvicorn

from service.app import create_app
from service.repository import read_all
from service.session import load_model
from service.settings import Settings
from tests.service.images import plain
from tests.service.test_errors import check


def test_a_dead_worker_is_503_and_not_ready_but_alive(model_file: Path) -> None:
    load = partial(load_model, device="cpu", threads=1)
    settings = Settings(model=model_file)
    app = create_app(settings, read_all(settings, load), load, threads=1)
    server = uvicorn.Server(uvicorn.Config(app, log_level="warning"))
    with socket.create_server(("127.0.0.1", 0)) as listener, asyncio.Runner() as runner:
        thread = threading.Thread(target=lambda: runner.run(server.serve(sockets=[listener])))
        thread.start()
        try:
            address = f"http://127.0.0.1:{listener.getsockname()[1]}"
            with httpx.Client(base_url=address, timeout=30) as client:
                assert client.post("/predict", content=plain(1)).status_code == 200
                batcher = next(app.state.engine.repository.served).batcher
                asyncio.run_coroutine_threadsafe(batcher.close(), runner.get_loop()).result(10)
                for response in (
                    client.post("/predict", content=plain(1)),
                    client.get("/health"),
                    client.get("/health/ready"),
                ):
                    check(response, 503, "not_ready")
                assert client.get("/health/live").status_code == 200
                while not app.state.engine.failed:
                    pass  # until it has been noticed: `python -m service` ends then
        finally:
            server.should_exit = True
            thread.join()
