"""What a worker does next; gates decide which of them runs when."""

import asyncio

import pytest

from tests.support.eventually import eventually_async
from tests.support.models.scheduled import FOREVER, Gate, Network, numbers_of, run, scheduled


def test_an_image_is_decoded_and_run_by_one_thread() -> None:
    async def test() -> None:
        async with scheduled(threads=2) as s:
            answer = await s.image(7)
            assert numbers_of(answer) == [70]
            assert answer.decoded is not None
            assert answer.decoded.ended <= answer.began <= answer.ended
            assert s.decoder.threads == s.network.threads

    run(test)


def test_a_batch_is_what_was_decoded_while_there_was_more_to_decode() -> None:
    async def test() -> None:
        async with scheduled(Network(target_batch_size=3)) as s:
            asked = [await s.hold_image(), *(s.image(number) for number in (1, 2, 3, 4))]
            await asyncio.sleep(0)
            s.release_image()
            assert [numbers_of(answer) for answer in await asyncio.gather(*asked)] == [
                [0],
                [10],
                [20],
                [30],
                [40],
            ]
            assert s.network.runs == [[0, 1, 2], [3, 4]]

    run(test)


def test_a_worker_waits_for_no_more_than_its_share() -> None:
    """Of five that are in flight, two threads have three each."""

    async def test() -> None:
        async with scheduled(threads=2) as s:
            asked = [
                await s.hold_image(0),
                await s.hold_image(9),
                *(s.image(number) for number in (1, 2, 3)),
            ]
            await asyncio.sleep(0)
            s.release_image(0)
            await eventually_async(lambda: bool(s.network.runs))
            assert s.network.runs[0] == [0, 1, 2]
            s.release_image(9)
            await asyncio.gather(*asked)

    run(test)


def test_a_batch_waits_no_longer_than_the_delay() -> None:
    async def test() -> None:
        async with scheduled(max_batch_delay=0.0) as s:
            asked = [await s.hold_image(), s.image(1), s.image(2)]
            await asyncio.sleep(0)
            s.release_image()
            await asyncio.gather(*asked)
            assert s.network.runs == [[0], [1], [2]]

    run(test)


def test_models_and_outputs_are_not_mixed_in_a_batch() -> None:
    async def test() -> None:
        async with scheduled() as s:
            other = Network()
            asked = [
                await s.hold_image(),
                s.image(1, network=other),
                s.image(2, outputs=("p", "q")),
                s.image(3),
            ]
            await asyncio.sleep(0)
            s.release_image()
            await asyncio.gather(*asked)
            assert (s.network.runs, other.runs) == ([[0, 3], [2]], [[1]])
            assert s.network.outputs == [("p",), ("p", "q")]

    run(test)


def test_crops_are_shared_among_the_threads() -> None:
    async def test() -> None:
        gate = Gate(opened=False)
        async with scheduled(Network(gate=gate), threads=2) as s:
            asked = s.image(5, crops=10)
            await eventually_async(lambda: len(gate.passed) == 2)
            gate.opened.set()
            assert numbers_of(await asked) == [50] * 10
            assert [len(batch) for batch in s.network.runs] == [5, 5]

    run(test)


@pytest.mark.parametrize(
    ("most", "batches"), [(32, [12, 12]), (8, [8, 8, 8])], ids=["a share each", "MAX_BATCH at most"]
)
def test_crops_come_back_in_order(most: int, batches: list[int]) -> None:
    async def test() -> None:
        async with scheduled(threads=2, max_batch=most) as s:
            answer = await s.crops(*range(24))
            assert numbers_of(answer) == [10 * number for number in range(24)]
            assert answer.decoded is None
            assert sorted(len(batch) for batch in s.network.runs) == sorted(batches)

    run(test)


def test_a_single_request_uses_every_core_if_the_model_gains_by_it() -> None:
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


def test_crops_do_not_starve_images() -> None:
    async def test() -> None:
        gate = Gate(opened=False)
        async with scheduled(Network(gate=gate), max_batch=2) as s:
            running = s.crops(1)
            await eventually_async(lambda: bool(gate.passed))
            image = s.image(2)
            await asyncio.sleep(0)
            behind = [s.crops(n, n) for n in (3, 4, 5)]
            await asyncio.sleep(0)
            s.decoder.gates[b"2"] = hold_image = Gate(opened=False)
            gate.opened.set()
            await eventually_async(lambda: bool(hold_image.passed))
            assert s.network.runs == [[1]], "it is decoded before what came after it is run"
            hold_image.opened.set()
            await asyncio.gather(running, image, *behind)

    run(test)


def test_runners_run_what_the_others_decode() -> None:
    async def test() -> None:
        async with scheduled(threads=2, runners=1) as s:
            assert numbers_of(await s.image(1)) == [10]
            assert numbers_of(await s.crops(2)) == [20]
            assert s.decoder.threads[0].startswith("decode_")
            assert s.network.threads == ["run_0"] * 2

    run(test)


def test_hold_delays_a_batch_until_it_is_full_or_timed_out() -> None:
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
