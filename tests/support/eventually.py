"""Poll until another thread, process or server has reached a state."""

import asyncio
import inspect
import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")
TIMEOUT_S = 60.0  # usually milliseconds are enough; the machine may be busy
PAUSE_S = 0.01


def eventually(predicate: Callable[[], T | None], within: float = TIMEOUT_S) -> T:
    """Poll `predicate` and return its first truthy value.

    Raises AssertionError after `within` seconds, with the predicate's source and its last value. Exceptions
    of the predicate end the wait, for example if the process has died.
    """
    deadline = time.monotonic() + within
    while not (value := predicate()):
        assert time.monotonic() < deadline, _failure(predicate, value, within)
        time.sleep(PAUSE_S)
    return value


async def eventually_async(predicate: Callable[[], object], within: float = TIMEOUT_S) -> None:
    """Poll without blocking the event loop; `predicate` may be a coroutine function."""
    deadline = time.monotonic() + within
    while True:
        value = predicate()
        if inspect.isawaitable(value):
            value = await value
        if value:
            return
        assert time.monotonic() < deadline, _failure(predicate, value, within)
        await asyncio.sleep(PAUSE_S / 10)


def _failure(predicate: Callable[[], object], value: object, within: float) -> str:
    """Return a message with the predicate's source and its last value."""
    try:
        source = " ".join(inspect.getsource(predicate).split())
    except (OSError, TypeError):
        source = repr(predicate)
    return f"still {value!r} after {within:g} s of waiting for: {source}"
