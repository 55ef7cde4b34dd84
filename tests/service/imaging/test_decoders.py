"""What decodes, here and in processes of their own: a picture that breaks one is answered, and those beside
it are answered right.
"""

import math
import os
import signal
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from contract.picture import ImageError, InvalidImage, TooManyPixels, UnsupportedImage
from contract.recipe import DEFAULT_RECIPE, TORCHVISION_RECIPE
from service.imaging.decode import BYTES_PER_PIXEL, DecodedImage, SlowPicture, decode_crops
from service.imaging.decoder import DecodeClock, Decoder, MemoryBudget, ThreadDecoder
from service.imaging.process_decoder import ProcessDecoder
from tests.support.eventually import eventually
from tests.support.serving.images import encoded, noise

PIXELS = 4_000_000
GOOD = encoded(noise(5))


@contextmanager
def decoder(kind: str, most: int = PIXELS) -> Iterator[Decoder]:
    made: Decoder = ThreadDecoder(most) if kind == "here" else ProcessDecoder(2, most, 30)
    made.start()
    try:
        yield made
    finally:
        made.close()


@contextmanager
def processes(count: int, most: int = PIXELS, timeout: float = 30) -> Iterator[ProcessDecoder]:
    made = ProcessDecoder(count, most, timeout)
    made.start()
    try:
        yield made
    finally:
        made.close()


def outcome(decoder: Decoder, data: bytes, slow: bool = False) -> DecodedImage | ImageError:
    try:
        return decoder.decode(data, DEFAULT_RECIPE, 1, slow, DecodeClock())
    except ImageError as error:
        return error


KINDS = pytest.mark.parametrize("kind", ["here", "processes"])


@KINDS
def test_both_say_the_same(kind: str) -> None:
    with decoder(kind) as both:
        for crops, recipe in ((1, DEFAULT_RECIPE), (10, DEFAULT_RECIPE), (1, TORCHVISION_RECIPE)):
            made = both.decode(GOOD, recipe, crops, False, DecodeClock())
            wanted = decode_crops(GOOD, recipe, PIXELS, crops)
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
            failed = outcome(both, data, slow=True)
            assert type(failed) is error
            with pytest.raises(error, match=r".") as expected:
                decode_crops(data, DEFAULT_RECIPE, PIXELS, 1)
            assert str(failed) == str(expected.value)
        assert both.stuck_for == 0


@KINDS
def test_what_takes_long_is_decoded_where_it_may(kind: str) -> None:
    large = encoded(Image.new("RGB", (2000, 2000), "teal"), "PNG")
    with decoder(kind, 6_000_000) as both:
        with pytest.raises(SlowPicture) as refused:
            both.decode(large, DEFAULT_RECIPE, 1, False, DecodeClock())
        assert refused.value.seconds > 0
        assert isinstance(outcome(both, large, slow=True), DecodedImage)


@KINDS
def test_many_at_once_get_their_own_answers(kind: str) -> None:
    pictures = [encoded(noise(seed), "PNG") for seed in range(12)]
    sent = [data for data in pictures for data in (data, data[:3000])]
    with decoder(kind) as both, ThreadPoolExecutor(2) as pool:
        answers = list(pool.map(lambda data: outcome(both, data), sent))
    for data, answer in zip(pictures, answers[::2], strict=True):
        assert isinstance(answer, DecodedImage)
        assert np.array_equal(answer.crops[0], decode_crops(data, DEFAULT_RECIPE, PIXELS, 1).crops[0])
    assert all(isinstance(answer, InvalidImage) for answer in answers[1::2])


def test_memory_is_waited_for_in_turn() -> None:
    memory, order = MemoryBudget(10), []

    def take(size: int) -> None:
        with memory.reserve(size):
            order.append(size)

    with ThreadPoolExecutor(2) as pool:
        with memory.reserve(4):
            large = pool.submit(take, 10)
            eventually(memory._turn.locked)
            small = pool.submit(take, 1)
            with memory._changed:  # the large one waits, and there would be room for the small one
                assert order == []
        for asked in (large, small):
            asked.result(20)
    assert order == [10, 1]


def test_memory_is_reserved_before_decoding_and_for_each_kind_apart() -> None:
    here, watch = ThreadDecoder(PIXELS), DecodeClock()
    with ThreadPoolExecutor(1) as pool:
        with here._ordinary.reserve(PIXELS * BYTES_PER_PIXEL // 4):
            asked = pool.submit(here.decode, GOOD, DEFAULT_RECIPE, 1, False, watch)
            assert isinstance(outcome(here, GOOD, slow=True), DecodedImage)
            assert not asked.done()
            assert watch.began == math.inf, "waiting for memory is no decoding"
            free = time.perf_counter()
        assert isinstance(asked.result(20), DecodedImage)
        assert free < watch.began


def slow_picture() -> bytes:
    """Seconds of work for a processor: 16-bit noise of the size that is allowed."""
    return encoded(noise(2, 2000, 1990), "PNG", compress_level=0)


def test_a_process_that_takes_too_long_is_replaced() -> None:
    with processes(1) as some:
        before = {process.pid for process in some._running}
        some._timeout = 0.001
        assert "longer than 1 ms" in str(outcome(some, slow_picture(), slow=True))
        some._timeout = 30
        assert isinstance(outcome(some, GOOD), DecodedImage)
        assert before.isdisjoint({process.pid for process in some._running})


def kill_when_asked(some: ProcessDecoder) -> None:
    """Kill the only process, which is stopped, once a picture waits for it."""
    (process,) = some._running
    os.kill(process.pid, signal.SIGSTOP)
    eventually(lambda: not some._idle.qsize())
    os.kill(process.pid, signal.SIGKILL)
    eventually(lambda: process not in some._running)


def test_a_process_that_dies_fails_no_picture() -> None:
    with processes(1) as some, ThreadPoolExecutor(1) as pool:
        asked = pool.submit(outcome, some, GOOD)
        kill_when_asked(some)
        assert isinstance(asked.result(), DecodedImage)


def test_processes_that_are_killed_idle_are_no_fault_of_the_next_pictures() -> None:
    """All of them, an instant before."""
    with processes(3) as some:
        for process in some._running:
            os.kill(process.pid, signal.SIGKILL)
        for process in some._running:
            with suppress(ChildProcessError):
                os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        assert [type(outcome(some, GOOD)).__name__ for _picture in range(4)] == ["Cropped"] * 4


def test_more_pictures_than_processes_wait_for_one() -> None:
    with processes(1) as some, ThreadPoolExecutor(2) as pool:
        (process,) = some._running
        os.kill(process.pid, signal.SIGSTOP)
        asked = [pool.submit(outcome, some, GOOD) for _picture in range(2)]
        eventually(lambda: not some._idle.qsize())
        os.kill(process.pid, signal.SIGCONT)
        assert [type(each.result()) for each in asked] == [DecodedImage] * 2


def test_closing_ends_a_second_attempt() -> None:
    with ThreadPoolExecutor(1) as pool:
        with processes(1) as some:
            asked = pool.submit(outcome, some, GOOD)
            kill_when_asked(some)
        assert asked.result(30)


def test_the_memory_of_a_process_is_limited() -> None:
    some = ProcessDecoder(1, 40_000_000, 30)
    some._memory = 60_000_000  # the picture alone takes 64
    some.start()
    failed = outcome(some, encoded(noise(3, 4000, 4000), "BMP"), slow=True)
    assert isinstance(failed, InvalidImage)
    assert "memory" in str(failed)
    assert isinstance(outcome(some, GOOD), DecodedImage)
    some.close()


def test_the_processes_end_with_the_decoder() -> None:
    with processes(2) as some:
        pids = [process.pid for process in some._running]
    for pid in pids:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


def test_memory_that_a_process_shares_cannot_become_shorter() -> None:
    """Reading what is not there any more would end the service."""
    with processes(1) as some:
        (process,) = some._running
        descriptors = Path(f"/proc/{process.pid}/fd").iterdir()
        shared = next(path for path in descriptors if "memfd" in str(path.readlink()))
        with shared.open("r+b") as memory, pytest.raises(PermissionError):
            os.ftruncate(memory.fileno(), 0)


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"{}",
        b"\xff\n",
        b"[]\n",
        b"{}\n",
        b'{"width": 3}\n',
        b'{"error": "SystemExit"}\n',
        b"x" * 2_000_000,
    ],
    ids=["nothing", "no line", "no text", "a list", "empty", "not all", "no error of ours", "too much"],
)
def test_a_process_that_says_what_it_was_not_asked_is_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, answer: bytes
) -> None:
    """As one that a picture has taken over would."""
    odd = tmp_path / "odd"
    odd.write_text(
        f"#!{sys.executable}\nimport sys\nout = sys.stdout.buffer\nout.write(b'ready\\n')\nout.flush()\n"
        f"sys.stdin.buffer.readline()\nout.write({answer!r})\nout.flush()\nout.close()\n"
    )
    odd.chmod(0o755)
    some = ProcessDecoder(1, PIXELS, 30)
    with monkeypatch.context() as patched:
        patched.setattr(sys, "executable", str(odd))
        some.start()
        failed = outcome(some, GOOD)
        assert isinstance(failed, InvalidImage)
        assert "ended the process" in str(failed), "and that of a second one"
    eventually(lambda: isinstance(outcome(some, GOOD), DecodedImage))
    some.close()
