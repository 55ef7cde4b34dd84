"""Wait for what another thread, process or server is about to do."""

import asyncio
import inspect
import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")
WITHIN_S = 60.0  # on a machine that does other things too; what is waited for usually takes milliseconds
PAUSE_S = 0.01


def eventually(predicate: Callable[[], T | None], within: float = WITHIN_S) -> T:
    """Poll `predicate` and return its first truthy value.

    Raises AssertionError after `within` seconds, which says what was waited for and the last value. What
    the predicate raises ends the wait, so that nobody waits for a process that has died.
    """
    deadline = time.monotonic() + within
    while not (value := predicate()):
        assert time.monotonic() < deadline, _failure(predicate, value, within)
        time.sleep(PAUSE_S)
    return value


async def eventually_async(predicate: Callable[[], object], within: float = WITHIN_S) -> None:
    """Poll as `eventually` does, while the event loop goes on; `predicate` may be a coroutine function."""
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
    """Return the predicate's source and its last value, as a message."""
    try:
        source = " ".join(inspect.getsource(predicate).split())
    except (OSError, TypeError):
        source = repr(predicate)
    return f"still {value!r} after {within:g} s of waiting for: {source}"
