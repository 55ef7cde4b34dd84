"""How much work on pictures that take long to decode may wait."""

import math
import threading
from typing import Final

from service.errors import Overloaded

MAX_WORK_S: Final = 10.0  # estimated, for each thread or process that does it: none waits for much longer


class SlowWork:
    """Counts the estimated seconds of the slow pictures that wait or are decoded, for `workers` of them."""

    def __init__(self, workers: int) -> None:
        self._workers = workers
        self._lock = threading.Lock()
        self.seconds = 0.0

    def add(self, seconds: float) -> None:
        """Raises Overloaded where there is too much already."""
        with self._lock:
            if self.seconds and self.seconds + seconds > MAX_WORK_S * self._workers:
                wait = math.ceil(self.seconds / self._workers)
                raise Overloaded("too many pictures that take long to decode are waiting", wait)
            self.seconds += seconds

    def remove(self, seconds: float) -> None:
        with self._lock:
            self.seconds -= seconds
