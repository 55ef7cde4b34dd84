"""Decoding in threads of this process, which may do more with the crops that they have made."""

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from typing import Any, Final

from contract.recipe import Recipe
from service.admission import PixelBudget
from service.crops import BYTES_PER_PIXEL, Cropped, Then, decode_crops, too_long
from service.logs import log
from service.priority import DECODING, give_way, keep_to_core
from service.together import Together

PATIENCE: Final = 0.025  # s that crops wait for others at most, while there are always more to be made
LARGE: Final = 8_000_000  # bytes that decoding takes; before it, crops that wait have their turn


class _Clock:
    """How long a picture has been worked on; waiting for memory does not count."""

    def __init__(self) -> None:
        self._before = 0.0
        self._since: float | None = time.perf_counter()

    @property
    def seconds(self) -> float:
        since = self._since
        return self._before + (time.perf_counter() - since if since is not None else 0.0)

    def stop(self) -> None:
        self._before, self._since = self.seconds, None

    @contextmanager
    def stopped(self) -> Iterator[None]:
        self.stop()
        try:
            yield
        finally:
            self._since = time.perf_counter()


@dataclass(eq=False)
class _Job:
    data: bytes
    recipe: Recipe
    crops: int
    then: Then | None
    answer: "asyncio.Future[Cropped]"
    clock: _Clock | None = None  # since a thread has it
    timer: asyncio.TimerHandle | None = None


class Threads:
    """`timeout` in seconds, 0 for none. A thread cannot be ended: a picture that takes too long is
    answered in time, but its thread is lost until the decoder is done with it.

    Crops with a `then` wait for others until there are enough or nothing else is to be done, and the thread
    that finds so calls it: as many threads compute as there are cores, and nothing is handed over.

    asyncio's own way to a thread makes two futures, two locks and five callbacks of each picture: twice the
    time of the event loop.
    """

    def __init__(self, threads: int, max_pixels: int, timeout: float) -> None:
        self._max_pixels = max_pixels
        self._timeout = timeout
        self._budget = PixelBudget(max_pixels * BYTES_PER_PIXEL)
        self._jobs: SimpleQueue[_Job | None] = SimpleQueue()
        self._made: Together[Then, tuple[_Job, Cropped]] = Together()
        self._stuck: dict[_Job, float] = {}  # since when
        self._threads = [
            threading.Thread(target=self._work, args=(number,), name=f"decode_{number}", daemon=True)
            for number in range(threads)
        ]

    @property
    def waiting(self) -> int:
        return self._made.waiting

    @property
    def alive(self) -> bool:
        return len(self._stuck) < len(self._threads)

    @property
    def stuck_for(self) -> float:
        return 0.0 if self.alive else time.perf_counter() - max(self._stuck.values())

    async def start(self) -> None:
        for thread in self._threads:
            thread.start()

    async def decode(self, data: bytes, recipe: Recipe, crops: int, then: Then | None = None) -> Cropped:
        loop = asyncio.get_running_loop()
        job = _Job(data, recipe, crops, then, loop.create_future())
        if self._timeout:
            job.timer = loop.call_later(self._timeout, self._look_at, job)
        self._jobs.put(job)
        try:
            return await job.answer
        except asyncio.CancelledError:
            job.data = b""  # it may lie in the queue for long yet, and nobody counts it any more
            raise
        finally:
            del job  # nor is this frame to hold it: picture and all, they would wait for the collector

    async def close(self) -> None:
        for _thread in self._threads:
            self._jobs.put(None)
        if not self._stuck:
            for thread in self._threads:
                await asyncio.to_thread(thread.join)

    def _work(self, number: int) -> None:
        give_way(DECODING)
        keep_to_core(number, len(self._threads))
        while (job := self._next()) is not None:
            made = error = None
            if not job.answer.cancelled():  # whoever asked is still there
                job.clock = _Clock()
                try:
                    made = self._decode(job.data, job.recipe, job.crops, job.clock)
                except BaseException as raised:
                    error = raised
                job.clock.stop()
            if made is not None and job.then is not None:
                self._run(self._made.add(job.then, (job, made), job.then.worth))
            else:
                self._tell(job, self._end, job, made, error)
            del job, made, error  # the next may be long in coming

    def _next(self) -> _Job | None:
        """Before it is waited for, everything that has been made has its turn."""
        self._run(self._made.take(waited=PATIENCE))
        while True:
            with suppress(Empty):
                return self._jobs.get_nowait()
            if not (batch := self._made.take()):
                return self._jobs.get()
            self._run(batch)
            del batch

    def _run(self, batch: list[tuple[_Job, Cropped]]) -> None:
        """All of one `then`."""
        if not batch:
            return
        wanted = [made for job, made in batch if not job.answer.done()]
        then = batch[0][0].then
        assert then is not None
        with suppress(BaseException):  # whoever asked tries elsewhere, where failures are known to all
            for made, answer in list(zip(wanted, then(wanted) if wanted else [], strict=True)):
                made.answer = answer
        self._tell(batch[0][0], self._end_all, batch)

    @staticmethod
    def _tell(job: _Job, what: Callable[..., None], *args: Any) -> None:
        """On the event loop."""
        with suppress(RuntimeError):  # it was closed meanwhile: nobody waits
            job.answer.get_loop().call_soon_threadsafe(what, *args)

    def _decode(self, data: bytes, recipe: Recipe, crops: int, clock: _Clock) -> Cropped:
        """Is not given the job: an error holds its frames, and the job's answer holds the error."""

        @contextmanager
        def reserve(wanted: int) -> Iterator[None]:
            with ExitStack() as room:
                with clock.stopped():
                    while wanted > LARGE and (batch := self._made.take()):
                        self._run(batch)
                    room.enter_context(self._budget.reserve(wanted))
                yield

        return decode_crops(data, recipe, self._max_pixels, crops, reserve)

    def _end_all(self, batch: list[tuple[_Job, Cropped]]) -> None:
        for job, made in batch:
            self._end(job, made, None)

    def _end(self, job: _Job, made: Cropped | None, error: BaseException | None) -> None:
        self._stuck.pop(job, None)
        if job.timer is not None:
            job.timer.cancel()
        if job.answer.done():  # whoever asked has gone, or was told that it takes too long
            return
        if error is not None:
            job.answer.set_exception(error)
        else:
            assert made is not None
            job.answer.set_result(made)

    def _look_at(self, job: _Job) -> None:
        left = self._timeout - (job.clock.seconds if job.clock is not None else 0.0)
        if left > 0:
            job.timer = asyncio.get_running_loop().call_later(left, self._look_at, job)
            return
        self._stuck[job] = time.perf_counter()
        log.warning(
            "decoding a picture takes longer than DECODE_TIMEOUT_MS; %d of %d threads are lost to such",
            len(self._stuck),
            len(self._threads),
        )
        if not job.answer.done():
            job.answer.set_exception(too_long(self._timeout))
        while not self.alive and (batch := self._made.take()):
            self._end_all(batch)
