"""How many images are in the house, and when to come back if it is full."""

import math
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager

from service.errors import Overloaded


class Admission:
    """Counts images from before their body is read until their answer is ready, on the event loop."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._inside = 0
        self._departures: deque[float] = deque(maxlen=64)

    @contextmanager
    def admit(self) -> Iterator[None]:
        """Raises Overloaded, with the time that the images inside will take by the recent rate."""
        if self._inside >= self._limit:
            raise Overloaded(
                f"{self._inside} images are being worked on, which is the limit",
                self._seconds_to_empty(),
            )
        self._inside += 1
        try:
            yield
        finally:
            self._inside -= 1
            self._departures.append(time.monotonic())

    def _seconds_to_empty(self) -> int:
        """1 to 60."""
        if len(self._departures) < 2:
            return 1
        rate = len(self._departures) / max(time.monotonic() - self._departures[0], 1e-3)
        return max(1, min(60, math.ceil(self._inside / rate)))
