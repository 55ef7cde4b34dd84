"""Run one serving process from start to exit code."""

import asyncio
import socket
import sys
from collections.abc import Callable
from functools import partial
from typing import Final, cast

import uvicorn

from contract.limits import usable_cores
from service.errors import ModelError
from service.host import freeze_startup_objects, set_mmap_threshold
from service.http.app import create_app
from service.inference.decoders import open_decoder
from service.models.cuda import GpuOptions
from service.models.default_model import describe_models
from service.models.loading import read_all
from service.models.repository import Repository
from service.models.session import load_model
from service.observability import traces
from service.observability.metrics import Metrics
from service.server import signals
from service.server.http_protocol import Connections, Protocol
from service.server.listener import ListenError, listen
from service.server.uvicorn_server import Server
from service.settings import Settings, SettingsError
from service.stdio import write_line

# uvloop accepts one connection per turn of its loop and listening descriptor. With a single descriptor and
# 1,000 clients connecting to a busy server, /health/live waited 13 to 28 s to be accepted.
LISTENING_DESCRIPTORS: Final = 32


def serve(
    settings: Settings,
    listener: socket.socket,
    ready: Callable[[str, str, str], None],
    beat: Callable[[], None] = lambda: None,
) -> int:
    """Load the models and serve them on the bound `listener` until a signal arrives.

    Returns the exit code: 0, or 1 if the network hangs or the GPU fails. `ready` is called with the models'
    names, the provider and a path to try, once requests are answered; `beat` is called every second. Raises
    ModelError, SettingsError and ListenError.
    """
    set_mmap_threshold()
    freeze_startup_objects()
    threads = settings.threads or max(1, usable_cores() // settings.workers)
    load = partial(load_model, device=settings.device, threads=threads, gpu=GpuOptions.of(settings))
    metrics = Metrics()
    repository = Repository(settings, read_all(settings, load), load, metrics)
    served = [(model.name.name, model.name.version) for model in repository.served]
    names, path = describe_models(settings, served)
    provider = next(repository.served).model.provider
    app = create_app(settings, repository, metrics, threads, open_decoder(settings, provider, threads))

    def count_status(status: int) -> None:
        metrics.requests.labels("other", status).inc()

    def drain() -> None:
        app.state.engine.draining = True

    config = uvicorn.Config(
        app,
        log_config=None,  # uvicorn's loggers propagate to the service's handler
        log_level="warning",
        access_log=False,
        server_header=False,
        proxy_headers=False,  # uvicorn would trust any client on the loopback; see TRUSTED_PROXIES
        http=cast(type[asyncio.Protocol], partial(Protocol, Connections(settings, count_status))),
        ws="none",
        timeout_keep_alive=cast(
            int, settings.keep_alive_timeout_s
        ),  # only used for a timer, which takes floats
        timeout_graceful_shutdown=settings.drain_timeout_s,
    )
    server = Server(
        config,
        started=lambda: ready(names, provider, path),
        drain=drain,
        failed=lambda: app.state.engine.failed,
        reload=app.state.reload.set,
        beat=beat,
        delay=settings.drain_delay_s,
    )
    listen(listener, config.backlog)
    server.run(sockets=[listener, *(listener.dup() for _copy in range(LISTENING_DESCRIPTORS - 1))])
    traces.flush()
    # Without an engine the application did not start, and uvicorn has logged why.
    return 0 if hasattr(app.state, "engine") and not app.state.engine.failed else 1


def exit_code(run: Callable[[], int]) -> int:
    """Call `run` and return its exit code; on an error that a user can fix, print it in one line.

    That gives 2 for a SettingsError, and 1 for a ModelError or a ListenError.
    """
    try:
        return run()
    except (SettingsError, ModelError, ListenError) as error:
        write_line(f"error: {error}", sys.stderr)
        return 2 if isinstance(error, SettingsError) else 1
    finally:
        signals.ignore()
