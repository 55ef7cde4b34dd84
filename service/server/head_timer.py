"""How long a client may take for the head of a request."""

import asyncio
from collections.abc import Callable
from typing import Final

# The event loop runs timers before it reads: while it was busy, a request may have come in time.
LAST_LOOK_S: Final = 0.01


class HeadTimer:
    """Calls `late` when it has been armed for `seconds`, and what had arrived by then has been read."""

    def __init__(self, seconds: float, late: Callable[[], None]) -> None:
        self._seconds = seconds
        self._late = late
        self._timer: asyncio.TimerHandle | None = None

    @property
    def armed(self) -> bool:
        return self._timer is not None

    def arm(self) -> None:
        self.end()
        self._timer = asyncio.get_running_loop().call_later(self._seconds, self._look_once_more)

    def end(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _look_once_more(self) -> None:
        self._timer = asyncio.get_running_loop().call_later(LAST_LOOK_S, self._late)
