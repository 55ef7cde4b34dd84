"""How much is in the house, and when to come back if it is full."""

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

REQUEST_SHARE: Final = 8  # one request has at most this part of the images worked on, an eighth
A_LOT: Final = 64_000_000  # bytes of bodies at once; looking for what they leave takes some 10 ms


class Admission:
    """Counts images, from when their body is there until their answer is ready, and the bytes of bodies, as
    they come and until then; on the event loop. `per_key` is what one API key may have inside of the
    `images`. `clock` gives seconds that never go back.
    """

    def __init__(
        self,
        images: int,
        body_bytes: int,
        per_key: int,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._limit = images
        self._byte_limit = body_bytes
        self._key_limit = per_key
        self._in_flight = 0
        self._bytes = self._max_bytes = 0  # now, and since memory was given back
        self._keys: Counter[str] = Counter()
        self._clock = clock
        # When the house was last empty, then who left since, with how many images: idle time has no rate.
        self._departures: deque[tuple[float, int]] = deque(maxlen=65)

    @property
    def in_flight(self) -> int:
        return self._in_flight

    @contextmanager
    def admit(self, announced: int, images: int = 1, key: str = "") -> Iterator["Permit"]:
        """Counts nothing yet: who announces much and sends nothing takes no place from others. Raises
        Overloaded, with the time that the images inside will take by the recent rate, where a body of
        `announced` bytes with so many images would find no room now; InvalidRequest where it never would.
        """
        permit = Permit(self, key)
        permit.require(images)
        self.require_capacity(images, key)
        self._require_bytes(announced)
        try:
            yield permit
            self._departures.append((self._clock(), permit.images))
        finally:
            self._bytes -= permit.bytes
            if not self._bytes and self._max_bytes >= A_LOT:
                self._max_bytes = 0
                threading.Thread(target=trim).start()  # it takes 10 ms
            self._in_flight -= permit.images
            self._keys[key] -= permit.images
            if not self._keys[key]:
                del self._keys[key]

    def require_capacity(self, images: int = 1, key: str = "") -> None:
        """Raises Overloaded where so many more would not be admitted."""
        if self._in_flight + images > self._limit:
            raise Overloaded(
                f"{self._in_flight} images are being worked on and {self._limit} is the limit",
                self._seconds_to_empty(),
            )
        if self._keys[key] + images > self._key_limit:
            raise Overloaded(
                f"{self._keys[key]} images of this API key are being worked on and {self._key_limit} is "
                "the limit",
                self._seconds_to_empty(),
            )

    def _require_bytes(self, size: int) -> None:
        if self._bytes + size > self._byte_limit:
            raise Overloaded(
                f"{self._bytes} bytes of requests are in memory and {self._byte_limit} is the limit",
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
        """1 to 60."""
        gone = sum(images for _when, images in islice(self._departures, 1, None))
        if not gone:
            return 1
        rate = gone / max(self._clock() - self._departures[0][0], 1e-3)
        return max(1, min(60, math.ceil(self._in_flight / rate)))


class Permit:
    """One request, with its `images` that are inside, crops and occlusions counted, and its `bytes`."""

    def __init__(self, admission: Admission, key: str) -> None:
        self._admission = admission
        self._key = key
        self.images = 0
        self.bytes = 0

    def receive(self, size: int) -> None:
        """So many bytes more are in memory, or with a negative `size` fewer. Raises Overloaded."""
        if size > 0:
            self._admission._require_bytes(size)
        self._admission._bytes += size
        self._admission._max_bytes = max(self._admission._max_bytes, self._admission._bytes)
        self.bytes += size

    def acquire(self, images: int) -> None:
        """So many more. Raises Overloaded, or InvalidRequest if they could never be taken."""
        self.require(images)
        self._admission._enter(images, self._key)
        self.images += images

    def acquire_share(self, images: int, each: int = 1) -> asyncio.Semaphore:
        """Take what a request of several images works on at once: of a large one a part, so that it leaves
        room for others. -> what each image has to wait for. Raises as `take`.
        """
        share = min(images, max(1, self._admission._limit // REQUEST_SHARE // each))
        self.require(images * each)
        self.acquire(share * each)
        return asyncio.Semaphore(share)

    def require(self, images: int) -> None:
        """Raises InvalidRequest if so many more could never be taken."""
        most = min(self._admission._limit, self._admission._key_limit)
        if self.images + images > most:
            raise InvalidRequest(
                f"the request is of {self.images + images} images, crops and occlusions counted; {most} "
                "are taken at once, send it in parts"
            )
