"""How long a batch is waited for, and for whom."""

import asyncio

import pytest

from service.batcher import PATIENCE, Batcher
from tests.service.gate import StillClock, a_while, opened, run, until, with_still_clock


def test_without_max_wait_nobody_waits_for_a_clock() -> None:
    async def test(_loop: StillClock) -> None:
        gate = opened()
        batcher = Batcher(gate, max_batch=8)
        answer = batcher.submit(1)
        await until(answer.done)
        assert gate.batches == [[1]]
        await batcher.close()

    with_still_clock(test)


def test_max_wait_ends_by_the_clock() -> None:
    async def test(loop: StillClock) -> None:
        gate = opened()
        batcher = Batcher(gate, max_batch=8, max_wait=5.0)
        first = batcher.submit(1)
        await a_while()
        second = batcher.submit(2)
        loop.now += 4.9
        await a_while()
        assert gate.batches == []
        loop.now += 0.1
        await until(lambda: first.done() and second.done())
        assert gate.batches == [[1, 2]]
        await batcher.close()

    with_still_clock(test)


def test_a_full_batch_waits_for_nothing() -> None:
    async def test(_loop: StillClock) -> None:
        gate = opened()
        batcher = Batcher(gate, max_batch=2, max_wait=5.0)
        tasks = [batcher.submit(item) for item in (1, 2)]
        await until(lambda: all(task.done() for task in tasks))
        assert gate.batches == [[1, 2]]
        await batcher.close()

    with_still_clock(test)


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Longer than `run` lets a test take."""
    monkeypatch.setattr("service.batcher.PATIENCE", 60.0)


@pytest.mark.usefixtures("patient")
def test_what_is_on_its_way_is_waited_for_up_to_what_a_batch_is_worth() -> None:
    async def test() -> None:
        gate = opened()
        batcher = Batcher(gate, max_batch=8, worth=3)
        with batcher.expecting(3):
            tasks = [batcher.submit(item) for item in (1, 2)]
            await a_while()
            assert gate.batches == []
            tasks.append(batcher.submit(3))
            await asyncio.gather(*tasks)
        assert gate.batches == [[1, 2, 3]]
        await batcher.close()

    run(test)


@pytest.mark.usefixtures("patient")
def test_what_turns_out_not_to_come_is_waited_for_no_longer() -> None:
    async def test() -> None:
        gate = opened()
        batcher = Batcher(gate, max_batch=8, worth=8)
        with batcher.expecting(5):
            task = batcher.submit(1)
            await a_while()
            assert gate.batches == []
        assert (await task).result == 10
        await batcher.close()

    run(test)


def test_what_is_on_its_way_for_too_long_is_not_waited_for() -> None:
    async def test() -> None:
        gate = opened()
        batcher = Batcher(gate, max_batch=8, worth=8)
        with batcher.expecting(5):
            answer = await batcher.submit(1)
            assert answer.queued >= PATIENCE
        await batcher.close()

    run(test)


@pytest.mark.usefixtures("patient")
def test_lanes_share_what_is_on_its_way() -> None:
    async def test() -> None:
        gate = opened()
        batcher = Batcher(gate, max_batch=8, worth=8, lanes=2)
        with batcher.expecting(3):
            tasks = [batcher.submit(1)]
            await a_while()
            assert gate.batches == []
            await asyncio.gather(*tasks, batcher.submit(2))
        assert gate.batches == [[1, 2]]
        with batcher.expecting(2):
            assert (await batcher.submit(3)).result == 30
        await batcher.close()

    run(test)
