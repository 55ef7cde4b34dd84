"""Refuse slow-to-decode images when too many seconds of such work already wait."""

import math

from service.errors import Overloaded


class SlowWork:
    """Count the estimated seconds of the slow images that wait or are decoded.

    `workers` threads or processes decode them, and no image may wait for longer than `max_wait` s.
    """

    def __init__(self, workers: int, max_wait: float) -> None:
        self._workers = workers
        self._max_seconds = max_wait * workers
        self.seconds = 0.0

    def refusal(self, seconds: float) -> Overloaded | None:
        """Count `seconds` more, or return the error that refuses them because too many wait already."""
        if self.seconds and self.seconds + seconds > self._max_seconds:
            wait = math.ceil(self.seconds / self._workers)
            return Overloaded("too many images that take long to decode are waiting", wait)
        self.seconds += seconds
        return None

    def remove(self, seconds: float) -> None:
        self.seconds -= seconds
