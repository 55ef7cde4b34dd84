"""Admission control: caps images and body bytes in flight; computes Retry-After."""

import asyncio
import math
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import islice
from typing import Final

from service.errors import InvalidRequest, Overloaded
from service.host import trim

REQUEST_SHARE: Final = 8  # one request has at most an eighth of `max_images` in flight at a time
TRIM_MIN_BYTES: Final = 64_000_000  # after fewer bytes of bodies, returning free memory is not worth 10 ms


class Admission:
    """Count the images and the body bytes in flight and refuse what exceeds the limits.

    An image counts from when its request's body is complete until it is answered; a body's bytes count
    while they arrive and until then. `max_per_key` is how many of the `max_images` one API key may have in
    flight. `clock` returns monotonic seconds. Use it on the event loop only.
    """

    def __init__(
        self,
        max_images: int,
        max_bytes: int,
        max_per_key: int,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._max_images = max_images
        self._max_bytes = max_bytes
        self._max_per_key = max_per_key
        self._in_flight = 0
        self._bytes = self._peak_bytes = 0  # now, and the most since memory was last trimmed
        self._keys: Counter[str] = Counter()
        self._clock = clock
        # When nothing was in flight last, then (time, images) of each request that was answered since:
        # idle time must not lower the rate.
        self._departures: deque[tuple[float, int]] = deque(maxlen=65)

    @property
    def in_flight(self) -> int:
        return self._in_flight

    @contextmanager
    def admit(self, announced: int, images: int = 1, key: str = "") -> Iterator["Permit"]:
        """Yield the permit of a request with `announced` body bytes and `images` images.

        Nothing is counted yet, so that a client that announces much and sends nothing takes no room from
        others. Raises Overloaded, with a Retry-After from the recent rate, if there is no room now, and
        InvalidRequest if there never would be.
        """
        permit = Permit(self, key)
        permit.require_possible(images)
        self.require_capacity(images, key)
        self._require_bytes(announced)
        try:
            yield permit
            self._departures.append((self._clock(), permit.images))
        finally:
            self._bytes -= permit.bytes
            if not self._bytes and self._peak_bytes >= TRIM_MIN_BYTES:
                self._peak_bytes = 0
                threading.Thread(target=trim).start()  # it takes 10 ms
            self._in_flight -= permit.images
            self._keys[key] -= permit.images
            if not self._keys[key]:
                del self._keys[key]

    def require_capacity(self, images: int = 1, key: str = "") -> None:
        """Raise Overloaded unless `images` more images of this API key may be in flight now."""
        if self._in_flight + images > self._max_images:
            raise Overloaded(
                f"{self._in_flight} images are in flight and {self._max_images} is the limit",
                self._seconds_to_empty(),
            )
        if self._keys[key] + images > self._max_per_key:
            raise Overloaded(
                f"{self._keys[key]} images of this API key are in flight and {self._max_per_key} is "
                "the limit",
                self._seconds_to_empty(),
            )

    def _require_bytes(self, size: int) -> None:
        if self._bytes + size > self._max_bytes:
            raise Overloaded(
                f"{self._bytes} bytes of requests are in memory and {self._max_bytes} is the limit",
                self._seconds_to_empty(),
            )

    def _enter(self, images: int, key: str) -> None:
        self.require_capacity(images, key)
        if self._in_flight == 0:
            self._departures.clear()
            self._departures.append((self._clock(), 0))
        self._in_flight += images
        self._keys[key] += images

    def _seconds_to_empty(self) -> int:
        """Estimate when the images in flight are answered: 1 to 60 s."""
        answered = sum(images for _when, images in islice(self._departures, 1, None))
        if not answered:
            return 1
        rate = answered / max(self._clock() - self._departures[0][0], 1e-3)
        return max(1, min(60, math.ceil(self._in_flight / rate)))


class Permit:
    """What one request has in flight: `images` (crops and occlusions counted) and body `bytes`."""

    def __init__(self, admission: Admission, key: str) -> None:
        self._admission = admission
        self._key = key
        self.images = 0
        self.bytes = 0

    def receive(self, size: int) -> None:
        """Count `size` more body bytes in memory; fewer if it is negative. Raises Overloaded."""
        admission = self._admission
        if size > 0:
            admission._require_bytes(size)
        admission._bytes += size
        admission._peak_bytes = max(admission._peak_bytes, admission._bytes)
        self.bytes += size

    def acquire(self, images: int) -> None:
        """Count `images` more in flight. Raises Overloaded, or InvalidRequest if it never fits."""
        self.require_possible(images)
        self._admission._enter(images, self._key)
        self.images += images

    def acquire_share(self, images: int, cost: int = 1) -> asyncio.Semaphore:
        """Acquire room for a request of `images`, each of which counts as `cost` images.

        A large request has only a part of its images in flight at a time and so leaves room for others:
        each of them has to acquire the semaphore that is returned. Raises as `acquire` does.
        """
        share = min(images, max(1, self._admission._max_images // REQUEST_SHARE // cost))
        self.require_possible(images * cost)
        self.acquire(share * cost)
        return asyncio.Semaphore(share)

    def require_possible(self, images: int) -> None:
        """Raise InvalidRequest if `images` more could not even be acquired while nothing is in flight."""
        max_images = min(self._admission._max_images, self._admission._max_per_key)
        if self.images + images > max_images:
            raise InvalidRequest(
                f"the request is of {self.images + images} images, crops and occlusions counted; at most "
                f"{max_images} are accepted at once, send it in parts"
            )
