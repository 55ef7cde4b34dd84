"""The batcher alone: gates decide who runs when, nothing waits for a clock."""

import asyncio
import threading
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from service.batcher import Batcher, BatcherClosed, WorkerLost


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


async def behind(gate: Gate, batcher: Batcher[int, int], *items: int) -> list[asyncio.Task[Any]]:
    """Submits item 0, which runs alone and stands at the gate, then `items`, which queue up."""
    first = asyncio.create_task(batcher.submit(0))
    await asyncio.to_thread(gate.entered.wait, 10)
    queued = [asyncio.create_task(batcher.submit(item)) for item in items]
    await asyncio.sleep(0)
    return [first, *queued]


def test_a_batch_is_what_queued_while_the_last_one_ran() -> None:
    async def test() -> None:
        gate = Gate()
        batcher = Batcher(gate, max_batch=3)
        tasks = await behind(gate, batcher, 1, 2, 3, 4)
        gate.open.set()
        answers = await asyncio.gather(*tasks)
        assert [a.result for a in answers] == [0, 10, 20, 30, 40]
        assert gate.batches == [[0], [1, 2, 3], [4]]
        assert answers[1].queued > 0
        assert answers[1].ran > 0
        await batcher.close()

    run(test)


def test_an_item_whose_caller_has_gone_is_not_run() -> None:
    async def test() -> None:
        gate = Gate()
        batcher = Batcher(gate, max_batch=8)
        tasks = await behind(gate, batcher, 1, 2, 3)
        tasks[2].cancel()
        await asyncio.sleep(0)
        gate.open.set()
        results = await asyncio.gather(*tasks, return_exceptions=True)
        assert gate.batches == [[0], [1, 3]]
        assert isinstance(results[2], asyncio.CancelledError)
        await batcher.close()

    run(test)


def test_a_caller_that_goes_while_its_batch_runs_harms_nobody() -> None:
    async def test() -> None:
        gate = Gate()
        batcher = Batcher(gate, max_batch=8)
        tasks = await behind(gate, batcher, 1)
        tasks[0].cancel()
        gate.open.set()
        assert (await tasks[1]).result == 10
        assert batcher.alive
        await batcher.close()

    run(test)


def test_a_failing_batch_fails_only_itself() -> None:
    async def test() -> None:
        gate = Gate()
        batcher = Batcher(gate, max_batch=2)
        tasks = await behind(gate, batcher, -1, 1, 2)
        gate.open.set()
        for poisoned in tasks[1:3]:
            with pytest.raises(ArithmeticError):
                await poisoned
        assert ((await tasks[0]).result, (await tasks[3]).result) == (0, 20)
        await batcher.close()

    run(test)


@pytest.mark.parametrize("lanes", [1, 2])
def test_a_run_that_can_never_be_repeated_ends_the_batcher(lanes: int) -> None:
    def lost(_items: list[int]) -> list[int]:
        raise WorkerLost("the device is gone")

    async def test() -> None:
        batcher: Batcher[int, int] = Batcher(lost, max_batch=2, lanes=lanes)
        tasks = [asyncio.create_task(batcher.submit(item)) for item in range(5)]
        found = await asyncio.gather(*tasks, return_exceptions=True)
        assert {type(error) for error in found} == {BatcherClosed}
        assert str(found[0]) == "the device is gone"
        assert not batcher.alive
        with pytest.raises(BatcherClosed):
            await batcher.submit(1)
        await batcher.close()

    run(test)


def test_as_many_answers_as_questions() -> None:
    async def test() -> None:
        batcher: Batcher[int, int] = Batcher(lambda items: items[1:], max_batch=4)
        with pytest.raises(RuntimeError, match="1 items gave 0 results"):
            await batcher.submit(1)
        await batcher.close()

    run(test)


def test_closing_answers_everybody_and_takes_nobody() -> None:
    async def test() -> None:
        gate = Gate()
        batcher = Batcher(gate, max_batch=1)
        tasks = await behind(gate, batcher, 1, 2)
        closing = asyncio.create_task(batcher.close())
        results = await asyncio.gather(*tasks, return_exceptions=True)
        assert [type(r) for r in results] == [BatcherClosed] * 3
        gate.open.set()
        await closing
        assert not batcher.alive
        with pytest.raises(BatcherClosed):
            await batcher.submit(3)
        assert gate.batches == [[0]]

    run(test)


def test_with_max_wait_an_idle_batcher_collects_a_batch() -> None:
    async def test() -> None:
        gate = Gate()
        gate.open.set()
        batcher = Batcher(gate, max_batch=8, max_wait=0.05)
        await asyncio.gather(*(batcher.submit(item) for item in range(5)))
        assert gate.batches == [[0, 1, 2, 3, 4]]
        await batcher.close()

    run(test)
