"""One serving process, from its settings to its exit code."""

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
from service.models.cuda import GpuOptions
from service.models.default_model import announced
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

# uvloop takes one new connection in each turn of its loop for each descriptor that it listens on: with one
# alone and 1,000 clients arriving at a busy server, /health/live waited 13 to 28 s to be let in.
ACCEPTED_AT_ONCE: Final = 32


def serve(
    settings: Settings,
    listener: socket.socket,
    ready: Callable[[str, str, str], None],
    beat: Callable[[], None] = lambda: None,
) -> int:
    """Load the models and serve them until a signal comes.

    -> 0, or 1 if the network hangs or the GPU fails. `ready` gets the models' names, the provider and
    a path to try, once requests are answered; `beat` is called every second. Raises ModelError,
    SettingsError and ListenError.
    """
    set_mmap_threshold()
    freeze_startup_objects()
    threads = settings.threads or max(1, usable_cores() // settings.workers)
    load = partial(load_model, device=settings.device, threads=threads, gpu=GpuOptions.of(settings))
    metrics = Metrics()
    repository = Repository(settings, read_all(settings, load), load, metrics)
    app = create_app(settings, repository, metrics, threads)
    served = [(one.name.name, one.name.version) for one in repository.served]
    names, path = announced(settings, served)
    provider = next(repository.served).model.provider

    def count(status: int) -> None:
        metrics.requests.labels("other", status).inc()

    def drain() -> None:
        app.state.engine.draining = True

    config = uvicorn.Config(
        app,
        log_config=None,  # its loggers hand over to ours
        log_level="warning",
        access_log=False,
        server_header=False,
        proxy_headers=False,  # it would believe whoever connects from the loopback; see TRUSTED_PROXIES
        http=cast(type[asyncio.Protocol], partial(Protocol, Connections(settings, count))),
        ws="none",
        timeout_keep_alive=cast(int, settings.keep_alive_timeout_s),  # it is handed to the loop's timer
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
    server.run(sockets=[listener, *(listener.dup() for _more in range(ACCEPTED_AT_ONCE - 1))])
    traces.flush()
    # Without an engine it did not start, and uvicorn has said why.
    return 0 if hasattr(app.state, "engine") and not app.state.engine.failed else 1


def exit_code(run: Callable[[], int]) -> int:
    """`run`'s own, or what a person can mend, said in a line: 2 for a setting, 1 for a model or a port."""
    try:
        return run()
    except (SettingsError, ModelError, ListenError) as error:
        write_line(f"error: {error}", sys.stderr)
        return 2 if isinstance(error, SettingsError) else 1
    finally:
        signals.ignore()
