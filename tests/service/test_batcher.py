"""The batcher alone: gates decide who runs when, nothing waits for a clock."""

import asyncio
import gc
import threading
import time
from typing import Any

import pytest

from service.batcher import Batcher, BatcherClosed, WorkerLost
from tests.service.gate import Gate, a_while, behind, opened, run, until


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
        tasks = [batcher.submit(item) for item in range(5)]
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


def test_how_long_a_run_takes_is_told_while_it_runs() -> None:
    async def test() -> None:
        gate = Gate()
        batcher = Batcher(gate, max_batch=8)
        began = time.perf_counter()
        assert batcher.running_for == 0
        tasks = await behind(gate, batcher, 1)
        assert 0 < batcher.running_for <= time.perf_counter() - began
        gate.open.set()
        answers = await asyncio.gather(*tasks)
        assert batcher.running_for == 0
        took = time.perf_counter() - began
        assert all(0 <= a.queued <= took and 0 <= a.ran <= took for a in answers)
        await batcher.close()

    run(test)


def test_the_oldest_of_several_runs_counts() -> None:
    async def test() -> None:
        gates = {item: Gate() for item in (1, 2)}
        batcher: Batcher[int, int] = Batcher(lambda items: gates[items[0]](items), max_batch=1, lanes=2)
        tasks = []
        second = 0.0
        for item, gate in gates.items():
            second = time.perf_counter()
            tasks.append(batcher.submit(item))
            await asyncio.to_thread(gate.entered.wait, 10)
        assert batcher.running_for > time.perf_counter() - second, "the first began before the second"
        gates[1].open.set()
        await tasks[0]
        assert 0 < batcher.running_for <= time.perf_counter() - second
        gates[2].open.set()
        await tasks[1]
        assert batcher.running_for == 0
        await batcher.close()

    run(test)


def test_as_many_runs_at_a_time_as_there_are_lanes() -> None:
    async def test() -> None:
        gates = {item: Gate() for item in (1, 2, 3)}
        batcher: Batcher[int, int] = Batcher(lambda items: gates[items[0]](items), max_batch=1, lanes=2)
        tasks = [batcher.submit(item) for item in gates]
        for item in (1, 2):
            await asyncio.to_thread(gates[item].entered.wait, 10)
        assert batcher.waiting == 1
        assert not gates[3].entered.is_set()
        for gate in gates.values():
            gate.open.set()
        assert [a.result for a in await asyncio.gather(*tasks)] == [10, 20, 30]
        await batcher.close()

    run(test)


def test_runs_are_in_threads_of_its_own_by_their_name() -> None:
    async def test() -> None:
        batcher: Batcher[int, str] = Batcher(lambda _items: [threading.current_thread().name], max_batch=1)
        assert (await batcher.submit(1)).result.startswith("inference_")
        await batcher.close()

    run(test)


def test_when_all_that_waited_have_gone_the_next_is_answered() -> None:
    async def test() -> None:
        gate = opened()
        batcher = Batcher(gate, max_batch=8)
        gone = batcher.submit(1)
        await until(lambda: batcher.waiting == 1)
        gone.cancel()
        await a_while()
        assert (await batcher.submit(2)).result == 20
        assert gate.batches == [[2]]
        await batcher.close()

    run(test)


def test_it_says_why_nobody_is_answered() -> None:
    async def test() -> None:
        gate = Gate()
        batcher = Batcher(gate, max_batch=1)
        tasks = await behind(gate, batcher, 1)
        closing = asyncio.create_task(batcher.close())
        running, waiting = await asyncio.gather(*tasks, return_exceptions=True)
        assert str(running) == "the service is shutting down"
        assert str(waiting) == "the inference worker has ended"
        gate.open.set()
        await closing
        with pytest.raises(BatcherClosed, match=r"^the inference worker has ended$"):
            await batcher.submit(3)

    run(test)


def test_a_run_that_fails_after_the_close_is_nobody_s_worry() -> None:
    async def test() -> None:
        complaints: list[dict[str, Any]] = []
        asyncio.get_running_loop().set_exception_handler(lambda _loop, context: complaints.append(context))
        gate = Gate()
        batcher = Batcher(gate, max_batch=1)
        task = batcher.submit(-1)
        await asyncio.to_thread(gate.entered.wait, 10)
        closing = asyncio.create_task(batcher.close())
        with pytest.raises(BatcherClosed):
            await task
        gate.open.set()
        await closing
        await a_while()
        gc.collect()
        assert complaints == []

    run(test)
