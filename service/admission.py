"""How much is in the house, and when to come back if it is full."""

import math
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from service.errors import Overloaded


class Admission:
    """Counts images and the bytes of their bodies, from before a body is read until its answer is
    ready; on the event loop. `clock` gives seconds that never go back.
    """

    def __init__(self, images: int, body_bytes: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._limit = images
        self._byte_limit = body_bytes
        self._inside = 0
        self._bytes = 0
        self._clock = clock
        # When the house was last empty, then the images that were answered since: idle time has no rate.
        self._departures: deque[float] = deque(maxlen=65)

    @property
    def inside(self) -> int:
        return self._inside

    @contextmanager
    def admit(self, body_bytes: int) -> Iterator[None]:
        """Raises Overloaded, with the time that the images inside will take by the recent rate."""
        if self._inside >= self._limit:
            raise Overloaded(
                f"{self._inside} images are being worked on, which is the limit", self._seconds_to_empty()
            )
        if self._bytes + body_bytes > self._byte_limit:
            raise Overloaded(
                f"{self._bytes} bytes of requests are in memory and {self._byte_limit} is the limit",
                self._seconds_to_empty(),
            )
        if self._inside == 0:
            self._departures.clear()
            self._departures.append(self._clock())
        self._inside += 1
        self._bytes += body_bytes
        try:
            yield
            self._departures.append(self._clock())
        finally:
            self._inside -= 1
            self._bytes -= body_bytes

    def _seconds_to_empty(self) -> int:
        """1 to 60."""
        if len(self._departures) < 2:
            return 1
        rate = (len(self._departures) - 1) / max(self._clock() - self._departures[0], 1e-3)
        return max(1, min(60, math.ceil(self._inside / rate)))


class PixelBudget:
    """Pixels being decoded at once, over all threads: bounds the memory that strangers' pictures take."""

    def __init__(self, limit: int) -> None:
        self._free = limit
        self._changed = threading.Condition()
        self._turn = threading.Lock()  # small pictures do not overtake a large one for ever

    @contextmanager
    def reserve(self, pixels: int) -> Iterator[None]:
        """Waits until there is room; `pixels` must be at most the limit."""
        with self._turn, self._changed:
            self._changed.wait_for(lambda: pixels <= self._free)
            self._free -= pixels
        try:
            yield
        finally:
            with self._changed:
                self._free += pixels
                self._changed.notify()
