"""What decodes: here, or a process of its own (decode_processes.py). Both do it in the thread that asks."""

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
class Watch:
    """The time that decoding has begun, of `time.perf_counter`; waiting for memory does not count."""

    began: float = math.inf


class Decoder(Protocol):
    @property
    def stuck_for(self) -> float:
        """Seconds for which it has not been able to decode; 0 while it is."""

    def start(self) -> None:
        """Before the first image, in a thread that stays. Raises OSError."""

    def decode(self, data: bytes, recipe: Recipe, crops: int, slow: bool, watch: Watch) -> DecodedImage:
        """`slow`: it may take long. Raises ImageError, and SlowPicture where it may not."""

    def close(self) -> None:
        """Whoever waits for it gets any error."""


class ThreadDecoder:
    """What is decoded at once takes BYTES_PER_PIXEL for each of `max_pixels` at most, for images that take
    long, and a fourth of that for the others.
    """

    stuck_for = 0.0

    def __init__(self, max_pixels: int) -> None:
        self._max_pixels = max_pixels
        room = max_pixels * BYTES_PER_PIXEL
        self._ordinary, self._slow = MemoryBudget(room // 4), MemoryBudget(room)

    def start(self) -> None: ...

    def close(self) -> None: ...

    def decode(self, data: bytes, recipe: Recipe, crops: int, slow: bool, watch: Watch) -> DecodedImage:
        memory = self._slow if slow else self._ordinary

        @contextmanager
        def reserve(header: Header) -> Iterator[None]:
            seconds = estimated_seconds(header)
            if not slow and (seconds > SLOW_S or header.bytes > memory.limit):
                raise SlowPicture(seconds)
            with memory.reserve(header.bytes):
                watch.began = time.perf_counter()
                yield

        return decode_crops(data, recipe, self._max_pixels, crops, reserve)


class MemoryBudget:
    """Bytes that decoding takes, over all threads."""

    def __init__(self, limit: int) -> None:
        self.limit = self._free = limit
        self._changed = threading.Condition()
        self._turn = threading.Lock()  # small pictures do not overtake a large one for ever

    @contextmanager
    def reserve(self, size: int) -> Iterator[None]:
        """Wait for so many, at most the limit."""
        with self._turn, self._changed:
            self._changed.wait_for(lambda: size <= self._free)
            self._free -= size
        try:
            yield
        finally:
            with self._changed:
                self._free += size
                self._changed.notify()
