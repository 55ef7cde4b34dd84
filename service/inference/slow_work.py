"""How much work on pictures that take long to decode may wait."""

import math

from service.errors import Overloaded


class SlowWork:
    """Counts the estimated seconds of the slow pictures that wait or are decoded.

    `workers` threads or processes do it, and no picture is to wait for longer than `max_wait` s.
    """

    def __init__(self, workers: int, max_wait: float) -> None:
        self._workers = workers
        self._most = max_wait * workers
        self.seconds = 0.0

    def refusal(self, seconds: float) -> Overloaded | None:
        """Count so many more, or return why there are too many already."""
        if self.seconds and self.seconds + seconds > self._most:
            wait = math.ceil(self.seconds / self._workers)
            return Overloaded("too many pictures that take long to decode are waiting", wait)
        self.seconds += seconds
        return None

    def remove(self, seconds: float) -> None:
        self.seconds -= seconds
