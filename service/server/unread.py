"""Answers that clients have not read yet: who has to read how fast, and who is cut off when it is a lot."""

import asyncio
from collections import OrderedDict

from service.http.body.read import MIN_RATE


class Unread:
    """The bytes that wait to be written, of all connections; on the event loop. In `timeout` s a client has
    to read what waits for it, or MIN_RATE in each. Past `limit` bytes of all together the connection that
    has read nothing for longest is aborted.
    """

    def __init__(self, timeout: float, limit: int) -> None:
        self._timeout = timeout
        self._limit = limit
        self._total = 0
        # The last to have read, or to have been written to, at the end.
        self._waiting: OrderedDict[asyncio.Transport, tuple[int, asyncio.TimerHandle]] = OrderedDict()

    def watch(self, transport: asyncio.Transport) -> None:
        """Looks at what waits for `transport`, which has just been written to, or has read."""
        self._note(transport)
        while self._total > self._limit and len(self._waiting) > 1:
            longest = next(iter(self._waiting))
            before = self._waiting[longest][0]
            if self._note(longest) >= before:
                longest.abort()
                self.forget(longest)

    def forget(self, transport: asyncio.Transport) -> None:
        size, timer = self._waiting.pop(transport, (0, None))
        self._total -= size
        if timer is not None:
            timer.cancel()

    def _note(self, transport: asyncio.Transport) -> int:
        self.forget(transport)
        size = transport.get_write_buffer_size()
        if size:
            self._total += size
            timer = asyncio.get_running_loop().call_later(self._timeout, self._look, transport, size)
            self._waiting[transport] = size, timer
        return size

    def _look(self, transport: asyncio.Transport, before: int) -> None:
        size = self._note(transport)
        if size and size > before - MIN_RATE * self._timeout:
            transport.abort()
