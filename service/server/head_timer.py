"""Limit the time in which a client must send the head of a request."""

import asyncio
from collections.abc import Callable
from typing import Final

# The event loop runs timers before it reads sockets. If it was busy, the head may have arrived in time but
# not been read yet: so the timer waits this much longer, during which the loop reads.
GRACE_S: Final = 0.01


class HeadTimer:
    """Call `on_timeout` `seconds` after `arm`, once everything that arrived by then has been read."""

    def __init__(self, seconds: float, on_timeout: Callable[[], None]) -> None:
        self._seconds = seconds
        self._on_timeout = on_timeout
        self._timer: asyncio.TimerHandle | None = None

    @property
    def armed(self) -> bool:
        return self._timer is not None

    def arm(self) -> None:
        self.cancel()
        self._timer = asyncio.get_running_loop().call_later(self._seconds, self._wait_for_reads)

    def cancel(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _wait_for_reads(self) -> None:
        self._timer = asyncio.get_running_loop().call_later(GRACE_S, self._on_timeout)
