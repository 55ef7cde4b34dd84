"""Runs of a batcher that stand still, and a loop whose clock does, until a test says so."""

import asyncio
import threading
from collections.abc import Callable, Coroutine
from typing import Any

from service.batcher import Batcher


class Gate:
    """A `run` that records its batches and stands still until it is opened."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.entered = threading.Event()
        self.open = threading.Event()

    def __call__(self, items: list[int]) -> list[int]:
        self.batches.append(items)
        self.entered.set()
        assert self.open.wait(10)
        if -1 in items:
            raise ArithmeticError("poison")
        return [item * 10 for item in items]


def run(test: Callable[[], Coroutine[Any, Any, None]]) -> None:
    asyncio.run(asyncio.wait_for(test(), 10))


async def behind(gate: Gate, batcher: Batcher[int, int], *items: int) -> list[asyncio.Future[Any]]:
    """Submits item 0, which runs alone and stands at the gate, then `items`, which queue up."""
    first = batcher.submit(0)
    await asyncio.to_thread(gate.entered.wait, 10)
    queued = [batcher.submit(item) for item in items]
    await asyncio.sleep(0)
    return [first, *queued]


class StillClock(asyncio.SelectorEventLoop):
    """An event loop whose timers go off when the test says so."""

    now = 0.0

    def time(self) -> float:
        return self.now


def with_still_clock(test: Callable[[StillClock], Coroutine[Any, Any, None]]) -> None:
    loop = StillClock()
    try:
        loop.run_until_complete(test(loop))
    finally:
        loop.close()


async def until(holds: Callable[[], bool]) -> None:
    while not holds():  # noqa: ASYNC110 - it is the loop that is watched
        await asyncio.sleep(0)


async def a_while() -> None:
    for _pass in range(50):
        await asyncio.sleep(0)


def opened() -> Gate:
    gate = Gate()
    gate.open.set()
    return gate
