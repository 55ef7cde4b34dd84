"""Serve the application in a thread of this process, so that tests can break its parts."""

import asyncio
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, cast

import httpx
import uvicorn

from service.http.app import create_app
from service.imaging.decoder import Decoder
from service.inference.engine import Engine
from service.models.loading import Load, read_all
from service.models.repository import Repository
from service.observability.metrics import Metrics
from service.server.http_protocol import Connections, Protocol
from service.settings import Settings


@dataclass
class InProcess:
    """A running application and the parts of it that tests use."""

    client: httpx.Client
    loop: asyncio.AbstractEventLoop
    engine: Engine
    reload_requested: asyncio.Event

    def reload(self) -> None:
        """Reload the models, as SIGHUP does."""
        self.loop.call_soon_threadsafe(self.reload_requested.set)


@contextmanager
def serving_in_process(
    model: Path, load: Load, threads: int, decoder: Decoder | None = None, **more: Any
) -> Iterator[InProcess]:
    """Serve `model` on a free loopback port; `more` holds settings, which also choose the decoder."""
    settings = Settings(model=model, **more)
    metrics = Metrics()
    repository = Repository(settings, read_all(settings, load), load, metrics)
    app = create_app(settings, repository, metrics, threads, decoder)
    http = partial(Protocol, Connections(settings, lambda _status: None))
    server = uvicorn.Server(uvicorn.Config(app, log_level="error", http=cast(Any, http), ws="none"))
    with socket.create_server(("127.0.0.1", 0)) as listener, asyncio.Runner() as runner:
        thread = threading.Thread(target=lambda: runner.run(server.serve(sockets=[listener])))
        thread.start()
        try:
            address = f"http://127.0.0.1:{listener.getsockname()[1]}"
            with httpx.Client(base_url=address, timeout=30) as client:
                assert client.get("/health/ready").status_code == 200
                yield InProcess(client, runner.get_loop(), app.state.engine, app.state.reload)
        finally:
            server.should_exit = True
            thread.join()
