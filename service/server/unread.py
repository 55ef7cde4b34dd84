"""Abort connections whose clients read too slowly, or leave too much data unread in total."""

import asyncio
from collections import OrderedDict

from service.http.body.read import MIN_RATE


class Unread:
    """Track the bytes that wait to be written on all connections. Used on the event loop only.

    Within `timeout` s a client must read what waits for it, or MIN_RATE bytes in each second of them; else
    its connection is aborted. Beyond `limit` bytes in total, the connection whose client has read nothing
    for the longest time is aborted.
    """

    def __init__(self, timeout: float, limit: int) -> None:
        self._timeout = timeout
        self._limit = limit
        self._total = 0
        # Ordered by the last read or write, the least recent first.
        self._waiting: OrderedDict[asyncio.Transport, tuple[int, asyncio.TimerHandle]] = OrderedDict()

    def watch(self, transport: asyncio.Transport) -> None:
        """Record what waits for `transport` after a write or a read; abort the slowest beyond the limit."""
        self._record(transport)
        while self._total > self._limit and len(self._waiting) > 1:
            slowest = next(iter(self._waiting))
            size_before = self._waiting[slowest][0]
            if self._record(slowest) >= size_before:
                slowest.abort()
                self.forget(slowest)

    def forget(self, transport: asyncio.Transport) -> None:
        """Stop watching `transport`."""
        size, timer = self._waiting.pop(transport, (0, None))
        self._total -= size
        if timer is not None:
            timer.cancel()

    def _record(self, transport: asyncio.Transport) -> int:
        self.forget(transport)
        size = transport.get_write_buffer_size()
        if size:
            self._total += size
            timer = asyncio.get_running_loop().call_later(self._timeout, self._check_rate, transport, size)
            self._waiting[transport] = size, timer
        return size

    def _check_rate(self, transport: asyncio.Transport, size_before: int) -> None:
        size = self._record(transport)
        if size and size > size_before - MIN_RATE * self._timeout:
            transport.abort()
