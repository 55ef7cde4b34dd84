"""Where pictures are decoded: in threads of this process, or in processes of their own that are killed when
a picture takes too long and that cannot take this one with them. Both have one interface, `Decoder`.
"""

import math
from typing import Protocol

from contract.recipe import Recipe
from service.crops import Cropped, Then
from service.decode_processes import Processes
from service.decode_threads import Threads
from service.settings import Settings


class Decoder(Protocol):
    @property
    def alive(self) -> bool:
        """A picture that came now would be decoded, sooner or later."""

    @property
    def waiting(self) -> int:
        """Pictures whose crops wait for others, for their `then`."""

    @property
    def stuck_for(self) -> float:
        """Seconds for which nothing could be decoded any more; 0 while something can."""

    async def start(self) -> None:
        """Before the first picture. Raises OSError or TimeoutError."""

    async def decode(self, data: bytes, recipe: Recipe, crops: int, then: Then | None = None) -> Cropped:
        """A thread of this process that has made the crops calls `then` too, a process does not. Raises
        ImageError, for a picture that takes too long too, and Overloaded.
        """

    async def close(self) -> None:
        """Nothing is asked any more."""


def decoder_for(settings: Settings, threads: int, max_wait: float = math.inf) -> Decoder:
    timeout = settings.decode_timeout_ms / 1000
    if settings.decode_processes:
        return Processes(settings.decode_processes, settings.max_pixels, timeout, max_wait)
    return Threads(threads, settings.max_pixels, timeout, max_wait)
