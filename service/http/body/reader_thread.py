"""Parse large bodies in one thread, one at a time, to bound memory.

Parsing 20 MB of JSON takes up to 200 MB of memory for a moment.
"""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, Final, TypeVar

from service.errors import ServiceError

MAX_INLINE_BYTES: Final = 100_000  # bytes of JSON parsed on the event loop, in 3 ms at most
T = TypeVar("T")
# A pool of its own, so that other work in asyncio's default pool does not delay it.
_reader: Final = ThreadPoolExecutor(1, "json")


async def run_in_reader_thread(large: bool, read: Callable[..., T], *args: Any) -> T:
    """Call `read` with `args`, in the reader thread if the input is `large`. Raises what `read` raises."""
    if not large:
        return read(*args)
    calls: list[Callable[[], T]] = [partial(read, *args)]
    try:
        return await asyncio.get_running_loop().run_in_executor(_reader, _run_next, calls)
    except asyncio.CancelledError:
        calls.clear()  # the call may stay queued for a while, and its bytes are no longer counted
        raise


def _run_next(calls: list[Callable[[], T]]) -> T:
    try:
        return calls.pop()()
    except ServiceError as error:
        # The frames of its traceback and of its context hold what was parsed of the body.
        error.__context__ = None
        raise error.with_traceback(None) from None
