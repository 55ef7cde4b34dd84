"""What a thread does next, and what becomes of each request; gates decide who runs when."""

import asyncio
import gc
import sys
from typing import Any

import pytest

from contract.picture import ImageError, InvalidImage
from service.errors import Overloaded, SchedulerClosed, WorkerLost
from service.imaging.decode import SlowPicture
from service.scheduling_errors import SchedulerClosed, WorkerLost
from tests.support.eventually import eventually_async
from tests.support.models.scheduled import FOREVER, Gate, Network, run, said, scheduled


def test_an_image_is_decoded_and_run_by_one_thread() -> None:
    async def test() -> None:
        async with scheduled(threads=2) as s:
            answer = await s.image(7)
            assert said(answer) == [70]
            assert answer.decoded is not None
            assert answer.decoded.ended <= answer.began <= answer.ended
            assert s.decoder.threads == s.network.threads

    run(test)


def test_a_batch_is_what_was_decoded_while_there_was_more_to_decode() -> None:
    async def test() -> None:
        async with scheduled(Network(worth=3)) as s:
            asked = [await s.held(), *(s.image(number) for number in (1, 2, 3, 4))]
            await asyncio.sleep(0)
            s.let_go()
            assert [said(answer) for answer in await asyncio.gather(*asked)] == [
                [0],
                [10],
                [20],
                [30],
                [40],
            ]
            assert s.network.runs == [[0, 1, 2], [3, 4]]

    run(test)


def test_no_thread_waits_for_more_than_its_share() -> None:
    """Of five that are in flight, two threads have three each."""

    async def test() -> None:
        async with scheduled(threads=2) as s:
            asked = [await s.held(0), await s.held(9), *(s.image(number) for number in (1, 2, 3))]
            await asyncio.sleep(0)
            s.let_go(0)
            await eventually_async(lambda: bool(s.network.runs))
            assert s.network.runs[0] == [0, 1, 2]
            s.let_go(9)
            await asyncio.gather(*asked)

    run(test)


def test_no_batch_waits_for_ever_while_there_is_more_to_decode() -> None:
    async def test() -> None:
        async with scheduled(delay=0.0) as s:
            asked = [await s.held(), s.image(1), s.image(2)]
            await asyncio.sleep(0)
            s.let_go()
            await asyncio.gather(*asked)
            assert s.network.runs == [[0], [1], [2]]

    run(test)


def test_those_of_other_models_and_for_other_outputs_are_other_batches() -> None:
    async def test() -> None:
        async with scheduled() as s:
            other = Network()
            asked = [await s.held(), s.image(1, network=other), s.image(2, outputs=("p", "q")), s.image(3)]
            await asyncio.sleep(0)
            s.let_go()
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
            assert said(await asked) == [50] * 10
            assert [len(batch) for batch in s.network.runs] == [5, 5]

    run(test)


@pytest.mark.parametrize(
    ("most", "batches"), [(32, [12, 12]), (8, [8, 8, 8])], ids=["a share each", "MAX_BATCH at most"]
)
def test_crops_come_back_in_order(most: int, batches: list[int]) -> None:
    async def test() -> None:
        async with scheduled(threads=2, max_batch=most) as s:
            answer = await s.crops(*range(24))
            assert said(answer) == [10 * number for number in range(24)]
            assert answer.decoded is None
            assert sorted(len(batch) for batch in s.network.runs) == sorted(batches)

    run(test)


def test_what_is_alone_takes_every_core_where_the_network_gains_by_it() -> None:
    async def test() -> None:
        async with scheduled(Network(whole=True), threads=2) as s:
            await s.crops(1, 2, 3, 4)
            assert s.network.alone == s.network.runs == [[1, 2, 3, 4]]
            held = await s.held()
            await s.crops(5)
            assert s.network.runs[1:] == [[5]]
            assert len(s.network.alone) == 1
            s.let_go()
            await held

    run(test)


def test_crops_that_keep_coming_leave_an_image_its_turn() -> None:
    async def test() -> None:
        gate = Gate(opened=False)
        async with scheduled(Network(gate=gate), max_batch=2) as s:
            running = s.crops(1)
            await eventually_async(lambda: bool(gate.passed))
            image = s.image(2)
            await asyncio.sleep(0)
            behind = [s.crops(n, n) for n in (3, 4, 5)]
            await asyncio.sleep(0)
            s.decoder.gates[b"2"] = held = Gate(opened=False)
            gate.opened.set()
            await eventually_async(lambda: bool(held.passed))
            assert s.network.runs == [[1]], "it is decoded before what came after it is run"
            held.opened.set()
            await asyncio.gather(running, image, *behind)

    run(test)


def test_runners_run_what_the_others_decode() -> None:
    async def test() -> None:
        async with scheduled(threads=2, runners=1) as s:
            assert said(await s.image(1)) == [10]
            assert said(await s.crops(2)) == [20]
            assert s.decoder.threads[0].startswith("decode_")
            assert s.network.threads == ["run_0"] * 2

    run(test)


def test_with_hold_a_batch_is_full_or_held_for_so_long() -> None:
    async def test() -> None:
        async with scheduled(hold=FOREVER, max_batch=2) as s:
            first = s.image(1)
            await eventually_async(lambda: s.scheduler.waiting == 1)
            second = s.image(2)
            await asyncio.gather(first, second)
            assert s.network.runs == [[1, 2]]
        async with scheduled(hold=0.05, max_batch=2) as s:
            answer = await s.image(1)
            assert answer.decoded is not None
            assert answer.began - answer.decoded.ended >= 0.05

    run(test)


def test_who_has_gone_is_not_decoded_and_not_run() -> None:
    async def test() -> None:
        async with scheduled() as s:
            s.decoder.gates[b"4"] = gate = Gate(opened=False)
            asked = [await s.held(), *(s.image(number) for number in (1, 2, 3, 4))]
            await asyncio.sleep(0)
            asked[1].cancel()
            await asyncio.sleep(0)
            s.let_go()
            await eventually_async(lambda: bool(gate.passed))
            asked[2].cancel()
            await asyncio.sleep(0)
            gate.opened.set()
            found = await asyncio.gather(*asked, return_exceptions=True)
            assert [type(answer).__name__ for answer in found[1:3]] == ["CancelledError"] * 2
            assert s.network.runs == [[0, 3, 4]]
            assert len(s.decoder.threads) == 4

    run(test)


def test_the_bytes_of_who_has_gone_are_freed_at_once() -> None:
    async def test() -> None:
        async with scheduled() as s:
            held, data = await s.held(), b"1" * 1000
            alone = sys.getrefcount(data)
            model: Any = s.network
            gone = asyncio.create_task(s.scheduler.infer_image(model, data, 1, ("p",)))
            await asyncio.sleep(0)
            assert sys.getrefcount(data) > alone
            gone.cancel()
            await asyncio.wait([gone])
            del gone
            assert sys.getrefcount(data) == alone
            s.let_go()
            await held

    run(test)


def test_an_error_frees_its_image_without_the_collector() -> None:
    async def test() -> None:
        async with scheduled() as s:
            data = b"1" * 1000
            alone = sys.getrefcount(data)
            s.decoder.error = InvalidImage("it is broken")
            model: Any = s.network
            with pytest.raises(InvalidImage, match="it is broken"):
                await s.scheduler.infer_image(model, data, 1, ("p",))
            s.decoder.error = None
            await s.image(2)  # the thread has done with the first
            assert sys.getrefcount(data) == alone

    gc.disable()
    try:
        run(test)
    finally:
        gc.enable()


def test_a_run_that_fails_fails_its_batch_only() -> None:
    async def test() -> None:
        async with scheduled() as s:
            s.network.raises = ArithmeticError("poison")
            for asked in (s.image(1, crops=10), s.crops(1, 2)):
                with pytest.raises(ArithmeticError, match="poison"):
                    await asked
            s.network.raises = None
            assert said(await s.image(3)) == [30]
            assert s.scheduler.alive

    run(test)


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (WorkerLost("the device is gone"), "the device is gone"),
        (SystemExit(), "the inference worker has ended"),
    ],
    ids=["WorkerLost", "a panic"],
)
def test_after_a_run_that_can_never_be_repeated_nobody_is_answered(
    error: BaseException, message: str
) -> None:
    async def test() -> None:
        async with scheduled(threads=2) as s:
            s.network.raises = error
            found = await asyncio.gather(s.image(1), s.crops(2), s.image(3), return_exceptions=True)
            assert {(type(each), str(each)) for each in found} == {(SchedulerClosed, message)}
            assert not s.scheduler.alive
            with pytest.raises(SchedulerClosed, match=message):
                await s.image(4)

    run(test)


def test_closing_answers_everybody_and_takes_nobody() -> None:
    async def test() -> None:
        gate = Gate(opened=False)
        async with scheduled(Network(gate=gate)) as s:
            running = s.crops(1)
            await eventually_async(lambda: bool(gate.passed))
            asked = [running, s.crops(2), s.image(3)]
            await asyncio.sleep(0)
            closing = asyncio.create_task(s.scheduler.close())
            found = await asyncio.gather(*asked, return_exceptions=True)
            assert {(type(each), str(each)) for each in found} == {
                (SchedulerClosed, "the service is shutting down")
            }
            with pytest.raises(SchedulerClosed):
                await s.image(4)
            gate.opened.set()
            await closing
            assert s.network.runs == [[1]]

    run(test)


def test_how_long_the_oldest_run_takes_is_told_while_it_runs() -> None:
    async def test() -> None:
        now, gate = [100.0], Gate(opened=False)
        async with scheduled(Network(gate=gate), threads=2, clock=lambda: now[0]) as s:
            assert s.scheduler.stuck_for == 0
            first = s.crops(1)
            await eventually_async(lambda: len(gate.passed) == 1)
            now[0] = 130
            second = s.crops(2)
            await eventually_async(lambda: len(gate.passed) == 2)
            now[0] = 140
            assert s.scheduler.stuck_for == 40
            gate.opened.set()
            answers = await asyncio.gather(first, second)
            assert [answer.began for answer in answers] == [100, 130]
            assert s.scheduler.stuck_for == 0

    run(test)


def test_an_image_that_takes_too_long_is_answered_and_its_thread_comes_back() -> None:
    async def test() -> None:
        async with scheduled(timeout=0.05) as s:
            held = await s.held()
            with pytest.raises(ImageError, match="longer than 50 ms"):
                await held
            assert not s.scheduler.decodes
            assert s.scheduler.stuck_for > 0
            waits = s.image(1)
            await asyncio.sleep(0.1)
            assert not waits.done(), "its own time begins when a thread has it"
            s.let_go()
            assert said(await waits) == [10]
            assert s.scheduler.stuck_for == 0
            assert s.network.runs == [[1]]

    run(test)


def test_where_every_thread_is_lost_to_an_image_batches_are_still_run() -> None:
    async def test() -> None:
        async with scheduled(threads=2, timeout=0.05) as s:
            asked = [s.image(5), await s.held(1), await s.held(2)]
            assert said(await asked.pop(0)) == [50]
            found = await asyncio.gather(*asked, return_exceptions=True)
            assert [type(each) for each in found] == [InvalidImage] * 2
            for number in (3, 4):
                assert said(await s.crops(number)) == [10 * number]
            assert s.network.threads[1:] == ["run_0"] * 2
            assert not s.scheduler.decodes
            s.let_go(1)
            assert said(await s.image(6)) == [60]
            s.let_go(2)

    run(test)


def test_waiting_and_running_are_no_decoding() -> None:
    async def test() -> None:
        gate = Gate(opened=False)
        async with scheduled(Network(gate=gate), timeout=0.05) as s:
            asked = s.image(1)
            await eventually_async(lambda: bool(gate.passed))
            await asyncio.sleep(0.15)
            assert s.scheduler.decodes
            gate.opened.set()
            assert said(await asked) == [10]

    run(test)


def test_images_that_take_long_are_decoded_apart() -> None:
    async def test() -> None:
        async with scheduled() as s:
            s.decoder.raised[b"1"] = [SlowPicture(2.0)]
            s.decoder.gates[b"1"] = gate = Gate(opened=True)
            slow = s.image(1)
            gate.opened.clear()
            await eventually_async(lambda: bool(gate.passed))
            gate.opened.set()
            assert said(await s.image(2)) == [20]
            assert said(await slow) == [10]
            assert "slow_0" in s.decoder.threads
            assert set(s.network.threads) == {"decode_0"}

    run(test)


def test_no_more_that_take_long_are_taken_than_are_soon_decoded() -> None:
    async def test() -> None:
        async with scheduled(max_wait=5.0) as s:
            gates = []
            for number in (1, 2, 3):
                data = str(number).encode()
                s.decoder.raised[data] = [SlowPicture(3.0)]
                gates.append(s.decoder.gates.setdefault(data, Gate()))
            first = s.image(1)
            with pytest.raises(Overloaded) as refused:
                await asyncio.gather(s.image(2), s.image(3))
            assert refused.value
            assert said(await first) == [10]

    run(test)
