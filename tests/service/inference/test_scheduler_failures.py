"""Tests of requests that are cancelled, fail, or wait when the scheduler closes."""

import asyncio
import gc
import sys
from typing import Any

import pytest

from contract.picture import InvalidImage
from service.errors import SchedulerClosed, WorkerLost
from tests.support.eventually import eventually_async
from tests.support.models.scheduled import Gate, Network, outputs_of, run, scheduled


def test_cancelled_requests_are_neither_decoded_nor_run() -> None:
    async def test() -> None:
        async with scheduled() as s:
            s.decoder.gates[b"4"] = gate = Gate(opened=False)
            requests = [await s.hold_image(), *(s.image(number) for number in (1, 2, 3, 4))]
            await asyncio.sleep(0)
            requests[1].cancel()
            await asyncio.sleep(0)
            s.release_image()
            await eventually_async(lambda: bool(gate.passed))
            requests[2].cancel()
            await asyncio.sleep(0)
            gate.opened.set()
            results = await asyncio.gather(*requests, return_exceptions=True)
            assert [type(result).__name__ for result in results[1:3]] == ["CancelledError"] * 2
            assert s.network.runs == [[0, 3, 4]]
            assert len(s.decoder.threads) == 4

    run(test)


def test_bytes_of_a_cancelled_request_are_freed_at_once() -> None:
    async def test() -> None:
        async with scheduled() as s:
            hold_image, data = await s.hold_image(), b"1" * 1000
            initial_count = sys.getrefcount(data)
            model: Any = s.network
            cancelled = asyncio.create_task(s.scheduler.infer_image(model, data, 1, ("p",)))
            await asyncio.sleep(0)
            assert sys.getrefcount(data) > initial_count
            cancelled.cancel()
            await asyncio.wait([cancelled])
            del cancelled
            assert sys.getrefcount(data) == initial_count
            s.release_image()
            await hold_image

    run(test)


def test_failed_image_is_freed_without_the_garbage_collector() -> None:
    async def test() -> None:
        async with scheduled() as s:
            data = b"1" * 1000
            initial_count = sys.getrefcount(data)
            s.decoder.error = InvalidImage("it is broken")
            model: Any = s.network
            with pytest.raises(InvalidImage, match="it is broken"):
                await s.scheduler.infer_image(model, data, 1, ("p",))
            s.decoder.error = None
            await s.image(2)  # so that the thread has left the first one's frames
            assert sys.getrefcount(data) == initial_count

    gc.disable()
    try:
        run(test)
    finally:
        gc.enable()


def test_failed_run_fails_its_batch_only() -> None:
    async def test() -> None:
        async with scheduled() as s:
            s.network.raises = ArithmeticError("poison")
            for request in (s.image(1, crops=10), s.crops(1, 2)):
                with pytest.raises(ArithmeticError, match="poison"):
                    await request
            s.network.raises = None
            assert outputs_of(await s.image(3)) == [30]
            assert s.scheduler.alive

    run(test)


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (WorkerLost("the device is cancelled"), "the device is cancelled"),
        (SystemExit(), "the inference worker has ended"),
    ],
    ids=["WorkerLost", "a panic"],
)
def test_lost_worker_fails_all_requests(error: BaseException, message: str) -> None:
    async def test() -> None:
        async with scheduled(threads=2) as s:
            s.network.raises = error
            results = await asyncio.gather(s.image(1), s.crops(2), s.image(3), return_exceptions=True)
            assert {(type(error), str(error)) for error in results} == {(SchedulerClosed, message)}
            assert not s.scheduler.alive
            with pytest.raises(SchedulerClosed, match=message):
                await s.image(4)

    run(test)


def test_closing_fails_waiting_and_new_requests() -> None:
    async def test() -> None:
        gate = Gate(opened=False)
        async with scheduled(Network(gate=gate)) as s:
            running = s.crops(1)
            await eventually_async(lambda: bool(gate.passed))
            requests = [running, s.crops(2), s.image(3)]
            await asyncio.sleep(0)
            closing = asyncio.create_task(s.scheduler.close())
            results = await asyncio.gather(*requests, return_exceptions=True)
            assert {(type(error), str(error)) for error in results} == {
                (SchedulerClosed, "the service is shutting down")
            }
            with pytest.raises(SchedulerClosed):
                await s.image(4)
            gate.opened.set()
            await closing
            assert s.network.runs == [[1]]

    run(test)
