"""Decode images in the calling thread, within a budget of memory, and define the Decoder interface.

The other implementation, `process_decoder`, sends images to processes and waits for them in the calling
thread.
"""

import math
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

from contract.picture import Header
from contract.recipe import Recipe
from service.imaging.decode import (
    BYTES_PER_PIXEL,
    SLOW_S,
    DecodedImage,
    SlowPicture,
    decode_crops,
    estimated_seconds,
)


@dataclass
class DecodeClock:
    """When decoding began, by `time.perf_counter`; waiting for memory or a process does not count."""

    began: float = math.inf


class Decoder(Protocol):
    """Decode image files; `decode` may be called from several threads at once."""

    @property
    def stuck_for(self) -> float:
        """Seconds since decoding has become impossible; 0 while it is possible."""

    def start(self) -> None:
        """Prepare for the first image, in a thread that outlives the decoder. Raises OSError."""

    def decode(
        self, data: bytes, recipe: Recipe, crops: int, slow: bool, clock: DecodeClock
    ) -> DecodedImage:
        """Decode one image. Raises ImageError, and SlowPicture if it is slow and not `slow`.

        `slow` says that the image may take long; `clock` is set when decoding begins.
        """

    def close(self) -> None:
        """Stop decoding; callers that wait for an image get an ImageError."""


class ThreadDecoder:
    """Decode in the calling threads, whose images share two budgets of memory.

    Slow images together take at most BYTES_PER_PIXEL * `max_pixels`, all others a quarter of that.
    """

    stuck_for = 0.0

    def __init__(self, max_pixels: int) -> None:
        self._max_pixels = max_pixels
        max_bytes = max_pixels * BYTES_PER_PIXEL
        self._ordinary, self._slow = MemoryBudget(max_bytes // 4), MemoryBudget(max_bytes)

    def start(self) -> None: ...

    def close(self) -> None: ...

    def decode(
        self, data: bytes, recipe: Recipe, crops: int, slow: bool, clock: DecodeClock
    ) -> DecodedImage:
        memory = self._slow if slow else self._ordinary

        @contextmanager
        def reserve(header: Header) -> Iterator[None]:
            seconds = estimated_seconds(header)
            if not slow and (seconds > SLOW_S or header.bytes > memory.limit):
                raise SlowPicture(seconds)
            with memory.reserve(header.bytes):
                clock.began = time.perf_counter()
                yield

        return decode_crops(data, recipe, self._max_pixels, crops, reserve)


class MemoryBudget:
    """Limit the bytes that decoding takes over all threads."""

    def __init__(self, limit: int) -> None:
        self.limit = self._free = limit
        self._changed = threading.Condition()
        self._turn = threading.Lock()  # so that small pictures do not overtake a large one again and again

    @contextmanager
    def reserve(self, size: int) -> Iterator[None]:
        """Hold `size` bytes (at most the limit); wait until they are free."""
        with self._turn, self._changed:
            self._changed.wait_for(lambda: size <= self._free)
            self._free -= size
        try:
            yield
        finally:
            with self._changed:
                self._free += size
                self._changed.notify()
