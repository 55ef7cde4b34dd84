"""The application in a thread of this process, so that what it stands on can be broken."""

import asyncio
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, cast

import httpx
import uvicorn

from service.app import create_app
from service.connection import Connections, Protocol
from service.engine import Engine
from service.model_loading import Load, read_all
from service.settings import Settings


@contextmanager
def inside(
    model: Path, load: Load, threads: int, **more: Any
) -> Iterator[tuple[httpx.Client, asyncio.AbstractEventLoop, Engine]]:
    """`more` are settings."""
    settings = Settings(model=model, **more)
    app = create_app(settings, read_all(settings, load), load, threads)
    http = partial(Protocol, Connections(settings, lambda _status: None))
    server = uvicorn.Server(uvicorn.Config(app, log_level="error", http=cast(Any, http), ws="none"))
    with socket.create_server(("127.0.0.1", 0)) as listener, asyncio.Runner() as runner:
        thread = threading.Thread(target=lambda: runner.run(server.serve(sockets=[listener])))
        thread.start()
        try:
            address = f"http://127.0.0.1:{listener.getsockname()[1]}"
            with httpx.Client(base_url=address, timeout=30) as client:
                assert client.get("/health/ready").status_code == 200
                yield client, runner.get_loop(), app.state.engine
        finally:
            server.should_exit = True
            thread.join()
