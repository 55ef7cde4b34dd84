"""Pictures that take long to decode don't hold up ordinary ones, in threads and in processes."""

import asyncio

import pytest
from PIL import Image

from contract.recipe import DEFAULT_RECIPE
from service.crops import Cropped
from service.decode_processes import Processes
from service.decode_threads import Threads
from service.errors import Overloaded
from tests.service.gate import until
from tests.service.images import encoded, noise

PIXELS = 6_000_000
GOOD = encoded(noise(5))
LARGE = encoded(Image.new("RGB", (2000, 2000), "teal"), "PNG")


def test_pictures_that_take_long_do_not_hold_up_ordinary_ones() -> None:
    async def run() -> None:
        decoder = Threads(2, PIXELS, 30)
        await decoder.start()
        with decoder._slow_budget.reserve(decoder._slow_budget.limit):  # large ones wait for its memory
            large = [asyncio.create_task(decoder.decode(LARGE, DEFAULT_RECIPE, 1)) for _ in range(4)]
            await until(lambda: decoder._slow_work.seconds > 0 and decoder._jobs.empty())
            for _again in range(4):
                assert isinstance(await decoder.decode(GOOD, DEFAULT_RECIPE, 1), Cropped)
            assert not any(task.done() for task in large)
        assert all(isinstance(made, Cropped) for made in await asyncio.gather(*large))
        assert decoder._slow_work.seconds == pytest.approx(0)
        await decoder.close()

    asyncio.run(run())


def test_pictures_that_take_long_leave_a_process_to_ordinary_ones() -> None:
    async def run() -> None:
        decoder = Processes(2, PIXELS, 30)
        await decoder.start()
        await decoder._slow_turns.acquire()  # of another large one
        large = [asyncio.create_task(decoder.decode(LARGE, DEFAULT_RECIPE, 1)) for _ in range(4)]
        await until(lambda: decoder._slow_work.seconds > 0.4)
        for _again in range(4):
            assert isinstance(await decoder.decode(GOOD, DEFAULT_RECIPE, 1), Cropped)
        gone = large.pop()
        gone.cancel()
        assert not any(task.done() for task in large)
        decoder._slow_turns.release()
        assert all(isinstance(made, Cropped) for made in await asyncio.gather(*large))
        await until(lambda: decoder._slow_work.seconds < 1e-9)
        await decoder.close()

    asyncio.run(run())


def test_no_more_pictures_that_take_long_are_taken_than_are_soon_decoded() -> None:
    async def run() -> None:
        decoder = Threads(1, PIXELS, 30, max_wait=5)
        await decoder.start()
        with decoder._slow_budget.reserve(decoder._slow_budget.limit):
            asked = [asyncio.create_task(decoder.decode(LARGE, DEFAULT_RECIPE, 1)) for _ in range(120)]
            await until(decoder._jobs.empty)
            ended, waiting = await asyncio.wait(asked, return_when=asyncio.FIRST_COMPLETED)
            assert all(isinstance(task.exception(), Overloaded) for task in ended)
            await until(lambda: sum(not task.done() for task in asked) <= 5 / 0.1)
            assert isinstance(await decoder.decode(GOOD, DEFAULT_RECIPE, 1), Cropped)
            for task in waiting:
                task.cancel()
            await asyncio.wait(asked)
        await until(lambda: decoder._slow_work.seconds < 1e-9)
        assert isinstance(await decoder.decode(LARGE, DEFAULT_RECIPE, 1), Cropped)
        await decoder.close()

    asyncio.run(run())
