"""uvicorn's server, with the order in which a stop happens here."""

import asyncio
import os
import socket
import threading
import time
from collections.abc import Callable
from types import FrameType
from typing import Final

import uvicorn

from service.logs import log

TICKS_A_SECOND: Final = 10  # of uvicorn's main loop
LAST_S: Final = 5.0  # to end batches and threads, after the drain or a second signal


class Server(uvicorn.Server):
    """SIGTERM or Ctrl-C: `not_ready` is called, connections are taken for `delay` s more, so that a
    balancer sees it; then everything under way is answered, within uvicorn's
    `timeout_graceful_shutdown`. A second signal ends it at once. It stops too when `failed` says so. What
    hangs in native code by then is left: the process ends with 1. `beat` is called every second, as long as
    the event loop turns.
    """

    def __init__(
        self,
        config: uvicorn.Config,
        not_ready: Callable[[], None],
        failed: Callable[[], bool],
        delay: float,
        beat: Callable[[], None],
    ) -> None:
        super().__init__(config)
        self._beat = beat
        self._failed = failed
        self._not_ready = not_ready
        self._delay = delay

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        if self.should_exit and not self.force_exit:
            self.force_exit = True
            _end_after(LAST_S)
        super().handle_exit(sig, frame)

    async def on_tick(self, counter: int) -> bool:
        if counter % TICKS_A_SECOND == 0:
            self._beat()
        return await super().on_tick(counter) or self._failed()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._not_ready()
        _end_after(self._delay + (self.config.timeout_graceful_shutdown or 0) + LAST_S)
        end = time.monotonic() + self._delay
        # A signal's handler wakes no event: uvicorn's own loops look ten times a second too.
        while time.monotonic() < end and not self.force_exit:  # noqa: ASYNC110
            await asyncio.sleep(0.1)
        await super().shutdown(sockets)
        if self.force_exit:
            os._exit(0)  # the application is not closed, and would complain that its tasks are cancelled


def _end_after(seconds: float) -> None:
    """In a thread, because the event loop may be what waits."""

    def end() -> None:
        log.critical("the network or the decoder hangs, and the process ends without it")
        os._exit(1)

    timer = threading.Timer(seconds, end)
    timer.daemon = True
    timer.start()
