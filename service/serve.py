"""One serving process, from its settings to its exit code."""

import asyncio
import signal
import socket
import sys
from collections.abc import Callable
from functools import partial
from types import FrameType
from typing import Final, cast

import uvicorn

from contract.limits import usable_cores
from service import terminal, traces
from service.app import create_app
from service.connection import Connections, Protocol
from service.cuda import GpuOptions
from service.default_model import announced
from service.listener import ListenError, listen
from service.memory import give_large_memory_back, spare_what_stays
from service.model_loading import read_all
from service.server import Server
from service.session import ModelError, load_model
from service.settings import Settings, SettingsError
from service.stdio import say

# uvloop takes one new connection in each turn of its loop for each descriptor that it listens on: with one
# alone and 1,000 clients arriving at a busy server, /health/live waited 13 to 28 s to be let in.
ACCEPTED_AT_ONCE: Final = 32


def serve(
    settings: Settings,
    listener: socket.socket,
    ready: Callable[[str, str, str], None],
    beat: Callable[[], None] = lambda: None,
) -> int:
    """Loads the models, tells `ready` their names, the provider and a path to ask, and serves until a
    signal comes; calls `beat` every second. -> 0, or 1 if the network hangs or the GPU fails. Raises
    ModelError, SettingsError and ListenError.
    """
    give_large_memory_back()
    spare_what_stays()
    threads = settings.threads or max(1, usable_cores() // settings.workers)
    load = partial(load_model, device=settings.device, threads=threads, gpu=GpuOptions.of(settings))
    found = read_all(settings, load)
    app = create_app(settings, found, load, threads)

    def count(status: int) -> None:
        app.state.engine.metrics.requests.labels("other", status).inc()

    shared = Connections(settings, count)
    config = uvicorn.Config(
        app,
        log_config=None,  # its loggers hand over to ours
        log_level="warning",
        access_log=False,
        server_header=False,
        proxy_headers=False,  # it would believe whoever connects from the loopback; see TRUSTED_PROXIES
        http=cast(type[asyncio.Protocol], partial(Protocol, shared)),
        ws="none",
        timeout_keep_alive=cast(int, settings.keep_alive_timeout_s),  # it is handed to the loop's timer
        timeout_graceful_shutdown=settings.drain_timeout_s,
    )

    def not_ready() -> None:
        app.state.engine.draining = True

    server = Server(config, not_ready, lambda: app.state.engine.failed, settings.drain_delay_s, beat)

    def stop(_number: int, _frame: FrameType | None) -> None:
        server.should_exit = True

    def reload(number: int, frame: FrameType | None) -> None:
        if terminal.is_closed():
            stop(number, frame)
            return
        app.state.reload_wanted = True  # it may come before the engine is there
        if hasattr(app.state, "engine"):
            app.state.engine.reload_wanted = True

    signal.signal(signal.SIGHUP, reload)
    # Before anybody is told: whoever waits for that may signal at once. Later uvicorn has handlers of its
    # own and, when done, raises what it caught once more: here, so a clean stop is exit code 0.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, stop)
    names, path = announced(settings, [(one.name, one.version) for one in found if one.model])
    provider = next(one.model.provider for one in found if one.model)
    # Whoever is told may ask at once; until the decoders have started, connections wait.
    listen(listener, config.backlog)
    ready(names, provider, path)
    server.run(sockets=[listener, *(listener.dup() for _more in range(ACCEPTED_AT_ONCE - 1))])
    traces.flush()
    # Without an engine it did not start, and uvicorn has said why.
    return 0 if hasattr(app.state, "engine") and not app.state.engine.failed else 1


def exit_code(run: Callable[[], int]) -> int:
    """`run`'s own, or what a person can mend, said in a line: 2 for a setting, 1 for a model or a port."""
    try:
        return run()
    except (SettingsError, ModelError, ListenError) as error:
        say(f"error: {error}", sys.stderr)
        return 2 if isinstance(error, SettingsError) else 1
    finally:
        # Python's end gives them back to the system, which would end the process with another exit code.
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)
