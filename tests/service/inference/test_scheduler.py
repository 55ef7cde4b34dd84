"""Tests of what a worker thread does next: decode or run. Gates decide which thread runs when."""

import asyncio

import numpy as np
import pytest

from tests.support.eventually import eventually_async
from tests.support.models.scheduled import FOREVER, Gate, Network, outputs_of, pixels, run, scheduled


def test_image_is_decoded_and_run_by_the_same_thread() -> None:
    async def test() -> None:
        async with scheduled(threads=2) as s:
            answer = await s.image(7)
            assert outputs_of(answer) == [70]
            assert answer.decoded is not None
            assert answer.decoded.ended <= answer.began <= answer.ended
            assert s.decoder.threads == s.network.threads

    run(test)


def test_batch_collects_crops_while_there_is_more_to_decode() -> None:
    async def test() -> None:
        async with scheduled(Network(target_batch_size=3)) as s:
            requests = [await s.hold_image(), *(s.image(number) for number in (1, 2, 3, 4))]
            await asyncio.sleep(0)
            s.release_image()
            assert [outputs_of(answer) for answer in await asyncio.gather(*requests)] == [
                [0],
                [10],
                [20],
                [30],
                [40],
            ]
            assert s.network.runs == [[0, 1, 2], [3, 4]]

    run(test)


def test_thread_waits_for_no_more_than_its_share() -> None:
    """With five images in flight, the share of each of two threads is three."""

    async def test() -> None:
        async with scheduled(threads=2) as s:
            requests = [
                await s.hold_image(0),
                await s.hold_image(9),
                *(s.image(number) for number in (1, 2, 3)),
            ]
            await asyncio.sleep(0)
            s.release_image(0)
            await eventually_async(lambda: bool(s.network.runs))
            assert s.network.runs[0] == [0, 1, 2]
            s.release_image(9)
            await asyncio.gather(*requests)

    run(test)


def test_batch_delay_is_limited_while_there_is_more_to_decode() -> None:
    async def test() -> None:
        async with scheduled(max_batch_delay=0.0) as s:
            requests = [await s.hold_image(), s.image(1), s.image(2)]
            await asyncio.sleep(0)
            s.release_image()
            await asyncio.gather(*requests)
            assert s.network.runs == [[0], [1], [2]]

    run(test)


def test_models_and_outputs_have_separate_batches() -> None:
    async def test() -> None:
        async with scheduled() as s:
            other = Network()
            requests = [
                await s.hold_image(),
                s.image(1, network=other),
                s.image(2, outputs=("p", "q")),
                s.image(3),
            ]
            await asyncio.sleep(0)
            s.release_image()
            await asyncio.gather(*requests)
            assert (s.network.runs, other.runs) == ([[0, 3], [2]], [[1]])
            assert s.network.outputs == [("p",), ("p", "q")]

    run(test)


def test_crops_are_shared_among_threads() -> None:
    async def test() -> None:
        gate = Gate(opened=False)
        async with scheduled(Network(gate=gate), threads=2) as s:
            requests = s.image(5, crops=10)
            await eventually_async(lambda: len(gate.passed) == 2)
            gate.opened.set()
            assert outputs_of(await requests) == [50] * 10
            assert [len(batch) for batch in s.network.runs] == [5, 5]

    run(test)


@pytest.mark.parametrize(
    ("max_batch", "batches"), [(32, [12, 12]), (8, [8, 8, 8])], ids=["shares", "MAX_BATCH"]
)
def test_crops_come_back_in_order(max_batch: int, batches: list[int]) -> None:
    async def test() -> None:
        async with scheduled(threads=2, max_batch=max_batch) as s:
            answer = await s.crops(*range(24))
            assert outputs_of(answer) == [10 * number for number in range(24)]
            assert answer.decoded is None
            assert sorted(len(batch) for batch in s.network.runs) == sorted(batches)

    run(test)


def test_tensor_reaches_the_network_without_a_copy() -> None:
    async def test() -> None:
        async with scheduled(threads=2, max_batch=8) as s:
            tensor = pixels(*range(20))
            await s.tensor(tensor)
            assert sorted(len(part) for part in s.network.parts) == [4, 8, 8]
            assert all(np.shares_memory(part, tensor) for part in s.network.parts)

    run(test)


def test_exclusive_request_uses_every_core_if_the_network_gains_by_it() -> None:
    async def test() -> None:
        async with scheduled(Network(whole=True), threads=2) as s:
            await s.crops(1, 2, 3, 4)
            assert s.network.exclusive == s.network.runs == [[1, 2, 3, 4]]
            hold_image = await s.hold_image()
            await s.crops(5)
            assert s.network.runs[1:] == [[5]]
            assert len(s.network.exclusive) == 1
            s.release_image()
            await hold_image

    run(test)


def test_steady_crops_do_not_starve_an_image() -> None:
    async def test() -> None:
        gate = Gate(opened=False)
        async with scheduled(Network(gate=gate), max_batch=2) as s:
            running = s.crops(1)
            await eventually_async(lambda: bool(gate.passed))
            image = s.image(2)
            await asyncio.sleep(0)
            later = [s.crops(n, n) for n in (3, 4, 5)]
            await asyncio.sleep(0)
            s.decoder.gates[b"2"] = hold_image = Gate(opened=False)
            gate.opened.set()
            await eventually_async(lambda: bool(hold_image.passed))
            assert s.network.runs == [[1]], "the image is decoded before crops that arrived later are run"
            hold_image.opened.set()
            await asyncio.gather(running, image, *later)

    run(test)


def test_runners_run_batches_that_other_threads_decode() -> None:
    async def test() -> None:
        async with scheduled(threads=2, runners=1) as s:
            assert outputs_of(await s.image(1)) == [10]
            assert outputs_of(await s.crops(2)) == [20]
            assert s.decoder.threads[0].startswith("decode_")
            assert s.network.threads == ["run_0"] * 2

    run(test)


def test_fill_wait_holds_a_batch_until_full_or_overdue() -> None:
    async def test() -> None:
        async with scheduled(fill_wait=FOREVER, max_batch=2) as s:
            first = s.image(1)
            await eventually_async(lambda: s.scheduler.waiting == 1)
            second = s.image(2)
            await asyncio.gather(first, second)
            assert s.network.runs == [[1, 2]]
        async with scheduled(fill_wait=0.05, max_batch=2) as s:
            answer = await s.image(1)
            assert answer.decoded is not None
            assert answer.began - answer.decoded.ended >= 0.05

    run(test)
