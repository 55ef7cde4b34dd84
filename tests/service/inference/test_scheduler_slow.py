"""Tests of slow runs and slow images: how they are timed, refused and decoded apart."""

import asyncio

import pytest

from contract.picture import ImageError, InvalidImage
from service.errors import Overloaded
from service.imaging.decode import SlowPicture
from tests.support.eventually import eventually_async
from tests.support.models.scheduled import Gate, Network, outputs_of, run, scheduled


def test_stuck_for_is_the_time_of_the_oldest_run() -> None:
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


def test_image_over_the_timeout_is_answered_and_its_thread_recovers() -> None:
    async def test() -> None:
        async with scheduled(timeout=0.05) as s:
            hold_image = await s.hold_image()
            with pytest.raises(ImageError, match="longer than 50 ms"):
                await hold_image
            assert not s.scheduler.decodes
            assert s.scheduler.stuck_for > 0
            waits = s.image(1)
            await asyncio.sleep(0.1)
            assert not waits.done(), "its timeout begins when a thread decodes it"
            s.release_image()
            assert outputs_of(await waits) == [10]
            assert s.scheduler.stuck_for == 0
            assert s.network.runs == [[1]]

    run(test)


def test_batches_run_while_images_block_every_thread() -> None:
    async def test() -> None:
        async with scheduled(threads=2, timeout=0.05) as s:
            requests = [s.image(5), await s.hold_image(1), await s.hold_image(2)]
            assert outputs_of(await requests.pop(0)) == [50]
            errors = await asyncio.gather(*requests, return_exceptions=True)
            assert [type(error) for error in errors] == [InvalidImage] * 2
            for number in (3, 4):
                assert outputs_of(await s.crops(number)) == [10 * number]
            assert s.network.threads[1:] == ["run_0"] * 2
            assert not s.scheduler.decodes
            s.release_image(1)
            assert outputs_of(await s.image(6)) == [60]
            s.release_image(2)

    run(test)


def test_waiting_and_inference_do_not_count_as_decoding() -> None:
    async def test() -> None:
        gate = Gate(opened=False)
        async with scheduled(Network(gate=gate), timeout=0.05) as s:
            request = s.image(1)
            await eventually_async(lambda: bool(gate.passed))
            await asyncio.sleep(0.15)
            assert s.scheduler.decodes
            gate.opened.set()
            assert outputs_of(await request) == [10]

    run(test)


def test_slow_images_are_decoded_apart() -> None:
    async def test() -> None:
        async with scheduled() as s:
            s.decoder.raised[b"1"] = [SlowPicture(2.0)]
            s.decoder.gates[b"1"] = gate = Gate(opened=True)
            slow = s.image(1)
            gate.opened.clear()
            await eventually_async(lambda: bool(gate.passed))
            gate.opened.set()
            assert outputs_of(await s.image(2)) == [20]
            assert outputs_of(await slow) == [10]
            assert "slow_0" in s.decoder.threads
            assert set(s.network.threads) == {"decode_0"}

    run(test)


def test_slow_images_are_refused_if_they_would_wait_too_long() -> None:
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
            assert outputs_of(await first) == [10]

    run(test)
