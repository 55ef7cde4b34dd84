"""Threads and processes that decode, with decoders that take for ever: a picture is answered in time, and
those beside it are answered right.
"""

import asyncio
import os
import signal
import sys
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest

from contract.picture import ImageError, InvalidImage, TooManyPixels, UnsupportedImage
from contract.recipe import DEFAULT_RECIPE, TORCHVISION_RECIPE
from service.crops import Cropped, decode_crops
from service.decode_processes import Processes
from service.decode_threads import Threads
from service.decoding import Decoder
from tests.service.gate import until
from tests.service.images import encoded, noise
from tests.service.slow import slow_decoding

PIXELS = 4_000_000
GOOD = encoded(noise(5))


def decoders() -> list[Decoder]:
    return [Threads(2, PIXELS, 30), Processes(2, PIXELS, 30)]


async def outcome(decoder: Decoder, data: bytes) -> Cropped | ImageError:
    try:
        return await decoder.decode(data, DEFAULT_RECIPE, 1)
    except ImageError as error:
        return error


@pytest.mark.parametrize("kind", [0, 1], ids=["threads", "processes"])
def test_both_say_the_same(kind: int) -> None:
    async def run() -> None:
        decoder = decoders()[kind]
        await decoder.start()
        for crops, recipe in ((1, DEFAULT_RECIPE), (10, DEFAULT_RECIPE), (1, TORCHVISION_RECIPE)):
            made, wanted = (
                await decoder.decode(GOOD, recipe, crops),
                decode_crops(GOOD, recipe, PIXELS, crops),
            )
            assert (made.width, made.height, made.format) == (320, 240, "JPEG")
            assert len(made.crops) == crops
            assert np.array_equal(np.stack(made.crops), np.stack(wanted.crops))
            assert made.began < made.ended
        for data, error in (
            (b"no image", UnsupportedImage),
            (GOOD[:500], InvalidImage),
            (encoded(noise(1, 2001, 2000), "BMP"), TooManyPixels),
            (encoded(noise(1, 1500, 1400), "WEBP"), TooManyPixels),  # 16 bytes for each
        ):
            failed = await outcome(decoder, data)
            assert type(failed) is error
            with pytest.raises(error, match=r".") as expected:
                decode_crops(data, DEFAULT_RECIPE, PIXELS, 1)
            assert str(failed) == str(expected.value)
        assert decoder.alive
        assert decoder.stuck_for == 0
        await decoder.close()

    asyncio.run(run())


@pytest.mark.parametrize("kind", [0, 1], ids=["threads", "processes"])
def test_many_at_once_get_their_own_answers(kind: int) -> None:
    pictures = [encoded(noise(seed), "PNG") for seed in range(12)]

    async def run() -> None:
        decoder = decoders()[kind]
        await decoder.start()
        sent = [data for data in pictures for data in (data, data[:3000])]
        answers = await asyncio.gather(*(outcome(decoder, data) for data in sent))
        for data, answer in zip(pictures, answers[::2], strict=True):
            assert isinstance(answer, Cropped)
            assert np.array_equal(answer.crops[0], decode_crops(data, DEFAULT_RECIPE, PIXELS, 1).crops[0])
        assert all(isinstance(answer, InvalidImage) for answer in answers[1::2])
        await decoder.close()

    asyncio.run(run())


def test_a_thread_that_hangs_is_lost_and_comes_back(monkeypatch: pytest.MonkeyPatch) -> None:
    async def run() -> None:
        with slow_decoding(monkeypatch) as gate:
            decoder = Threads(2, PIXELS, 0.1)
            await decoder.start()
            assert "longer than 100 ms" in str(await outcome(decoder, GOOD + b"gate"))
            assert decoder.alive
            decoder._timeout = 30
            assert isinstance(await outcome(decoder, GOOD), Cropped), "the other thread goes on"
            decoder._timeout = 0.1
            await outcome(decoder, GOOD + b"gate")
            assert decoder.stuck_for > 0, "nothing can be decoded any more"
            decoder._timeout = 30
            waiting = asyncio.create_task(outcome(decoder, GOOD))
            gate.set()
            assert isinstance(await waiting, Cropped), "its own time began when it had a thread"
            await until(lambda: decoder.alive)
            await decoder.close()

    asyncio.run(run())


async def one_thread_at_the_gate(timeout: float) -> tuple[Threads, "asyncio.Task[Cropped | ImageError]"]:
    decoder = Threads(1, PIXELS, timeout)
    await decoder.start()
    return decoder, asyncio.create_task(outcome(decoder, GOOD + b"gate"))


def test_without_a_timeout_a_thread_takes_its_time(monkeypatch: pytest.MonkeyPatch) -> None:
    async def run() -> None:
        with slow_decoding(monkeypatch) as gate:
            decoder, asked = await one_thread_at_the_gate(timeout=0)
            gate.set()
            assert isinstance(await asked, Cropped)
            await decoder.close()

    asyncio.run(run())


def slow_picture() -> bytes:
    """Seconds of work for a processor: 16-bit noise of the size that is allowed."""
    return encoded(noise(2, 2000, 1990), "PNG", compress_level=0)


def test_a_process_that_takes_too_long_is_replaced() -> None:
    async def run() -> None:
        decoder = Processes(1, PIXELS, 30)
        await decoder.start()
        before = {process.pid for process in decoder._running}
        decoder._timeout = 0.001
        assert "longer than 1 ms" in str(await outcome(decoder, slow_picture()))
        decoder._timeout = 30
        assert isinstance(await outcome(decoder, GOOD), Cropped)
        assert before.isdisjoint({process.pid for process in decoder._running})
        await decoder.close()

    asyncio.run(run())


async def kill_when_asked(decoder: Processes) -> None:
    """Kill the only process, which is stopped, once a picture waits for it."""
    (process,) = decoder._running
    os.kill(process.pid, signal.SIGSTOP)
    await until(lambda: not decoder._idle.qsize())
    os.kill(process.pid, signal.SIGKILL)
    await until(lambda: process not in decoder._running)


def test_a_process_that_dies_fails_no_picture() -> None:
    async def run() -> None:
        decoder = Processes(1, PIXELS, 30)
        await decoder.start()
        asked = asyncio.create_task(outcome(decoder, GOOD))
        await kill_when_asked(decoder)
        assert isinstance(await asked, Cropped)
        await decoder.close()

    asyncio.run(run())


def test_a_picture_that_ends_two_processes_fails_alone() -> None:
    async def run() -> None:
        decoder = Processes(1, PIXELS, 30)
        await decoder.start()
        asked = asyncio.create_task(outcome(decoder, GOOD))
        await kill_when_asked(decoder)
        await until(lambda: len(decoder._running) == 1)
        await kill_when_asked(decoder)
        failed = await asked
        assert isinstance(failed, InvalidImage)
        assert "ended the process" in str(failed)
        assert isinstance(await outcome(decoder, GOOD), Cropped)
        await decoder.close()

    asyncio.run(run())


def test_processes_that_are_killed_idle_are_no_fault_of_the_next_pictures() -> None:
    """All of them, an instant before."""

    async def run() -> None:
        decoder = Processes(3, PIXELS, 30)
        await decoder.start()
        for process in decoder._running:
            os.kill(process.pid, signal.SIGKILL)
        for process in decoder._running:
            with suppress(ChildProcessError):  # the loop has heard of it
                os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)  # noqa: ASYNC222 - at once
        answers = await asyncio.gather(*(outcome(decoder, GOOD) for _ in range(4)))
        assert [type(answer).__name__ for answer in answers] == ["Cropped"] * 4
        await decoder.close()

    asyncio.run(run())


def test_closing_ends_a_second_attempt() -> None:
    async def run() -> None:
        decoder = Processes(1, PIXELS, 30)
        await decoder.start()
        asked = asyncio.create_task(outcome(decoder, GOOD))
        await kill_when_asked(decoder)
        await asyncio.wait_for(decoder.close(), 30)
        await asyncio.wait([asked], timeout=30)
        assert asked.done()

    asyncio.run(run())


def test_a_caller_who_goes_away_leaves_nothing_broken() -> None:
    async def run() -> None:
        decoder = Processes(1, PIXELS, 30)
        await decoder.start()
        gone = asyncio.create_task(outcome(decoder, slow_picture()))
        await until(lambda: not decoder._idle.qsize())
        gone.cancel()
        answer = await outcome(decoder, GOOD)
        assert isinstance(answer, Cropped)
        assert (answer.width, answer.height) == (320, 240), "not the answer of the one who went"
        await decoder.close()

    asyncio.run(run())


def test_the_memory_of_a_process_is_limited() -> None:
    async def run() -> None:
        decoder = Processes(1, 40_000_000, 30)
        decoder._memory = 60_000_000  # the picture alone takes 64
        await decoder.start()
        failed = await outcome(decoder, encoded(noise(3, 4000, 4000), "BMP"))
        assert isinstance(failed, InvalidImage)
        assert "memory" in str(failed)
        assert isinstance(await outcome(decoder, GOOD), Cropped)
        await decoder.close()

    asyncio.run(run())


def test_the_processes_end_with_the_decoder() -> None:
    async def run() -> list[int]:
        decoder = Processes(2, PIXELS, 30)
        await decoder.start()
        pids = [process.pid for process in decoder._running]
        await decoder.close()
        return pids

    for pid in asyncio.run(run()):
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


def test_the_bytes_of_who_went_away_do_not_wait_for_a_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    async def run() -> None:
        with slow_decoding(monkeypatch) as gate:
            decoder, holding = await one_thread_at_the_gate(timeout=30)
            data = GOOD + b"behind"
            alone = sys.getrefcount(data)
            gone = asyncio.create_task(decoder.decode(data, DEFAULT_RECIPE, 1))
            await until(lambda: decoder._jobs.qsize() == 1)
            assert sys.getrefcount(data) > alone
            gone.cancel()
            await asyncio.wait([gone])
            del gone
            assert sys.getrefcount(data) == alone
            gate.set()
            assert isinstance(await holding, Cropped)
            await decoder.close()

    asyncio.run(run())


@pytest.mark.parametrize(
    "answer",
    [b"\xff\n", b"[]\n", b"{}\n", b'{"bytes": 3}\n', b'{"error": "SystemExit"}\n', b"x" * 2_000_000],
    ids=["no text", "a list", "nothing", "too few pixels", "no error of ours", "no end"],
)
def test_a_process_that_says_what_it_was_not_asked_is_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, answer: bytes
) -> None:
    """As one that a picture has taken over would."""
    odd = tmp_path / "odd"
    odd.write_text(
        f"#!{sys.executable}\nimport sys\nout = sys.stdout.buffer\nout.write(b'ready\\n')\nout.flush()\n"
        f"sys.stdin.buffer.readline()\nout.write({answer!r})\nout.flush()\nsys.stdin.buffer.read()\n"
    )
    odd.chmod(0o755)

    async def run() -> None:
        decoder = Processes(1, PIXELS, 30)
        with monkeypatch.context() as patched:
            patched.setattr(sys, "executable", str(odd))
            await decoder.start()
        assert "ended the process" in str(await outcome(decoder, GOOD))
        assert isinstance(await outcome(decoder, GOOD), Cropped)
        await decoder.close()

    asyncio.run(run())
