"""Subclass uvicorn's server: our signals and order of shutdown."""

import asyncio
import os
import socket
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager, suppress
from typing import Final

import uvicorn

from service.observability.logs import log
from service.server import signals

TICKS_A_SECOND: Final = 10  # of uvicorn's main loop
FORCED_EXIT_S: Final = 5.0  # time to end batches and threads after the drain, or after a second signal


class Server(uvicorn.Server):
    """Serve until SIGTERM or Ctrl-C, or until `failed` returns true.

    At a signal `drain` is called, and connections are accepted for `delay` s more, so that a load balancer
    notices; then requests in flight are answered, within uvicorn's `timeout_graceful_shutdown`. A second
    signal stops the server at once. A process that still hangs in native code FORCED_EXIT_S later ends with
    exit code 1. SIGHUP calls `reload`. `started` is called once requests are answered, and `beat` every
    second while the event loop runs.
    """

    def __init__(
        self,
        config: uvicorn.Config,
        *,
        started: Callable[[], None],
        drain: Callable[[], None],
        failed: Callable[[], bool],
        reload: Callable[[], None],
        beat: Callable[[], None],
        delay: float,
    ) -> None:
        super().__init__(config)
        self._on_started = started
        self._drain = drain
        self._failed = failed
        self._reload = reload
        self._beat = beat
        self._delay = delay
        self._forced = asyncio.Event()

    def capture_signals(self) -> AbstractContextManager[None]:  # type: ignore[override]
        return signals.handled_on_loop(self._stop, self._reload)

    def _stop(self) -> None:
        if self.should_exit and not self.force_exit:
            self.force_exit = True
            self._forced.set()
            _end_after(FORCED_EXIT_S)
        self.should_exit = True

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._on_started()

    async def on_tick(self, counter: int) -> bool:
        if counter % TICKS_A_SECOND == 0:
            self._beat()
        return await super().on_tick(counter) or self._failed()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._drain()
        _end_after(self._delay + (self.config.timeout_graceful_shutdown or 0) + FORCED_EXIT_S)
        with suppress(TimeoutError):
            await asyncio.wait_for(self._forced.wait(), self._delay)
        await super().shutdown(sockets)
        if self.force_exit:
            os._exit(0)  # the application is not closed, and would log that its tasks are cancelled


def _end_after(seconds: float) -> None:
    """End the process from a thread, because the event loop may be what hangs."""

    def end() -> None:
        log.critical("the network or a decoder does not stop; the process is ended")
        os._exit(1)

    timer = threading.Timer(seconds, end)
    timer.daemon = True
    timer.start()
