"""The one thread that reads large bodies: 20 MB of JSON take up to 200 MB of memory for a moment."""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, Final, TypeVar

from service.errors import ServiceError

MAX_INLINE_BYTES: Final = 100_000  # bytes of JSON that are read on the event loop, in 3 ms at most
T = TypeVar("T")
# Of its own, so that what else runs in asyncio's pool does not hold it up.
_reader: Final = ThreadPoolExecutor(1, "json")


async def run_in_reader_thread(large: bool, read: Callable[..., T], *args: Any) -> T:
    """`read`, in the one thread for such work where it is `large`. Raises what it raises."""
    if not large:
        return read(*args)
    waiting: list[Callable[[], T]] = [partial(read, *args)]
    try:
        return await asyncio.get_running_loop().run_in_executor(_reader, _read_next, waiting)
    except asyncio.CancelledError:
        waiting.clear()  # it may lie in the thread's queue for a while yet, and nobody counts it any more
        raise


def _read_next(waiting: list[Callable[[], T]]) -> T:
    try:
        return waiting.pop()()
    except ServiceError as error:
        # Its frames, and those of what it was made from, hold all that was read of the body until then.
        error.__context__ = None
        raise error.with_traceback(None) from None
