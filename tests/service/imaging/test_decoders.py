"""Tests of both decoders: a picture that breaks a process fails, and pictures beside it do not."""

import math
import os
import signal
import sys
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
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
def started_decoder(kind: str, max_pixels: int = PIXELS) -> Iterator[Decoder]:
    running: Decoder = ThreadDecoder(max_pixels) if kind == "threads" else ProcessDecoder(2, max_pixels, 30)
    running.start()
    try:
        yield running
    finally:
        running.close()


@contextmanager
def processes(count: int, max_pixels: int = PIXELS, timeout: float = 30) -> Iterator[ProcessDecoder]:
    running = ProcessDecoder(count, max_pixels, timeout)
    running.start()
    try:
        yield running
    finally:
        running.close()


def outcome(decoder: Decoder, data: bytes, slow: bool = False) -> DecodedImage | ImageError:
    try:
        return decoder.decode(data, DEFAULT_RECIPE, 1, slow, DecodeClock())
    except ImageError as error:
        return error


BOTH_DECODERS = pytest.mark.parametrize("kind", ["threads", "processes"])


@BOTH_DECODERS
def test_both_decoders_give_the_same_crops_and_errors(kind: str) -> None:
    with started_decoder(kind) as decoder:
        for crops, recipe in ((1, DEFAULT_RECIPE), (10, DEFAULT_RECIPE), (1, TORCHVISION_RECIPE)):
            image = decoder.decode(GOOD, recipe, crops, False, DecodeClock())
            expected = decode_crops(GOOD, recipe, PIXELS, crops)
            assert (image.width, image.height, image.format) == (320, 240, "JPEG")
            assert len(image.crops) == crops
            assert np.array_equal(image.crops, expected.crops)
            assert image.began < image.ended
        for data, error in (
            (b"no image", UnsupportedImage),
            (GOOD[:500], InvalidImage),
            (encoded(noise(1, 2001, 2000), "BMP"), TooManyPixels),
            (encoded(noise(1, 1500, 1400), "WEBP"), TooManyPixels),  # 16 bytes of memory per pixel
        ):
            failed = outcome(decoder, data, slow=True)
            assert type(failed) is error
            with pytest.raises(error, match=r".") as raised:
                decode_crops(data, DEFAULT_RECIPE, PIXELS, 1)
            assert str(failed) == str(raised.value)
        assert decoder.stuck_for == 0


@BOTH_DECODERS
def test_slow_picture_is_decoded_only_if_allowed(kind: str) -> None:
    large = encoded(Image.new("RGB", (2000, 2000), "teal"), "PNG")
    with started_decoder(kind, 6_000_000) as decoder:
        with pytest.raises(SlowPicture) as refused:
            decoder.decode(large, DEFAULT_RECIPE, 1, False, DecodeClock())
        assert refused.value.seconds > 0
        assert isinstance(outcome(decoder, large, slow=True), DecodedImage)


@BOTH_DECODERS
def test_concurrent_pictures_get_their_own_results(kind: str) -> None:
    pictures = [encoded(noise(seed), "PNG") for seed in range(12)]
    sent = [data for data in pictures for data in (data, data[:3000])]
    with started_decoder(kind) as decoder, ThreadPoolExecutor(2) as pool:
        answers = list(pool.map(lambda data: outcome(decoder, data), sent))
    for data, answer in zip(pictures, answers[::2], strict=True):
        assert isinstance(answer, DecodedImage)
        assert np.array_equal(answer.crops, decode_crops(data, DEFAULT_RECIPE, PIXELS, 1).crops)
    assert all(isinstance(answer, InvalidImage) for answer in answers[1::2])


def test_memory_is_reserved_in_order_of_arrival() -> None:
    memory, order = MemoryBudget(10), []

    def take(size: int) -> None:
        with memory.reserve(size):
            order.append(size)

    with ThreadPoolExecutor(2) as pool:
        with memory.reserve(4):
            large = pool.submit(take, 10)
            eventually(memory._turn.locked)
            small = pool.submit(take, 1)
            with memory._changed:  # the large one waits, although the small one would fit
                assert order == []
        for reservation in (large, small):
            reservation.result(20)
    assert order == [10, 1]


def test_memory_is_reserved_before_decoding_apart_for_slow_pictures() -> None:
    decoder, clock = ThreadDecoder(PIXELS), DecodeClock()
    with ThreadPoolExecutor(1) as pool:
        with decoder._ordinary.reserve(PIXELS * BYTES_PER_PIXEL // 4):
            future = pool.submit(decoder.decode, GOOD, DEFAULT_RECIPE, 1, False, clock)
            assert isinstance(outcome(decoder, GOOD, slow=True), DecodedImage)
            assert not future.done()
            assert clock.began == math.inf, "waiting for memory does not count as decoding"
            free = time.perf_counter()
        assert isinstance(future.result(20), DecodedImage)
        assert free < clock.began


def slow_picture() -> bytes:
    """Make a picture of noise close to the pixel limit, which takes long to decode."""
    return encoded(noise(2, 2000, 1990), "PNG", compress_level=0)


def test_process_over_the_timeout_is_replaced() -> None:
    with processes(1) as decoder:
        before = {process.pid for process in decoder._running}
        decoder._timeout = 0.001
        assert "longer than 1 ms" in str(outcome(decoder, slow_picture(), slow=True))
        decoder._timeout = 30
        assert isinstance(outcome(decoder, GOOD), DecodedImage)
        assert before.isdisjoint({process.pid for process in decoder._running})


def kill_while_decoding(
    decoder: ProcessDecoder, pool: ThreadPoolExecutor
) -> Future[DecodedImage | ImageError]:
    """Stop the only process, send it a picture and kill it; return the future outcome."""
    (process,) = decoder._running
    os.kill(process.pid, signal.SIGSTOP)
    future = pool.submit(outcome, decoder, GOOD)
    eventually(lambda: not decoder._idle.qsize())
    os.kill(process.pid, signal.SIGKILL)
    eventually(lambda: process not in decoder._running)
    return future


def test_picture_is_decoded_again_if_its_process_dies() -> None:
    with processes(1) as decoder, ThreadPoolExecutor(1) as pool:
        assert isinstance(kill_while_decoding(decoder, pool).result(), DecodedImage)


def test_killed_idle_processes_do_not_fail_the_next_pictures() -> None:
    """Kill every idle process just before pictures are sent."""
    with processes(3) as decoder:
        for process in decoder._running:
            os.kill(process.pid, signal.SIGKILL)
        for process in decoder._running:
            with suppress(ChildProcessError):
                os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        assert [type(outcome(decoder, GOOD)).__name__ for _picture in range(4)] == ["DecodedImage"] * 4


def test_more_pictures_than_processes_wait() -> None:
    with processes(1) as decoder, ThreadPoolExecutor(2) as pool:
        (process,) = decoder._running
        os.kill(process.pid, signal.SIGSTOP)
        futures = [pool.submit(outcome, decoder, GOOD) for _picture in range(2)]
        eventually(lambda: not decoder._idle.qsize())
        os.kill(process.pid, signal.SIGCONT)
        assert [type(future.result()) for future in futures] == [DecodedImage] * 2


def test_closing_ends_a_second_attempt() -> None:
    with ThreadPoolExecutor(1) as pool:
        with processes(1) as decoder:
            future = kill_while_decoding(decoder, pool)
        assert future.result(30)


def test_memory_of_a_process_is_limited() -> None:
    decoder = ProcessDecoder(1, 40_000_000, 30)
    decoder._memory = 60_000_000  # the picture alone takes 64 MB
    decoder.start()
    failed = outcome(decoder, encoded(noise(3, 4000, 4000), "BMP"), slow=True)
    assert isinstance(failed, InvalidImage)
    assert "memory" in str(failed)
    assert isinstance(outcome(decoder, GOOD), DecodedImage)
    decoder.close()


def test_processes_end_with_the_decoder() -> None:
    with processes(2) as decoder:
        pids = [process.pid for process in decoder._running]
    for pid in pids:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


def test_shared_memory_cannot_be_truncated() -> None:
    """Reading truncated memory would kill the service."""
    with processes(1) as decoder:
        (process,) = decoder._running
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
    ids=[
        "empty",
        "no line end",
        "not UTF-8",
        "list",
        "no fields",
        "missing fields",
        "unknown error",
        "too long",
    ],
)
def test_process_with_an_invalid_answer_is_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, answer: bytes
) -> None:
    """A process that a malicious picture controls may answer anything."""
    fake_python = tmp_path / "fake_python"
    fake_python.write_text(
        f"#!{sys.executable}\nimport sys\nout = sys.stdout.buffer\nout.write(b'ready\\n')\nout.flush()\n"
        f"sys.stdin.buffer.readline()\nout.write({answer!r})\nout.flush()\nout.close()\n"
    )
    fake_python.chmod(0o755)
    decoder = ProcessDecoder(1, PIXELS, 30)
    with monkeypatch.context() as patched:
        patched.setattr(sys, "executable", str(fake_python))
        decoder.start()
        failed = outcome(decoder, GOOD)
        assert isinstance(failed, InvalidImage)
        assert "ended the process" in str(failed), "the second process, too"
    eventually(lambda: isinstance(outcome(decoder, GOOD), DecodedImage))
    decoder.close()
