"""Decoding in threads of this process, which may do more with the crops that they have made."""

import asyncio
import math
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from typing import Any, Final

from contract.picture import Header
from contract.recipe import Recipe
from service.admission import PixelBudget
from service.crops import (
    BYTES_PER_PIXEL,
    SLOW_S,
    Cropped,
    SlowPicture,
    Then,
    decode_crops,
    estimated_seconds,
    too_long,
)
from service.errors import Overloaded
from service.logs import log
from service.priority import DECODING, SLOW_DECODING, give_way, keep_to_core
from service.slow import SlowWork
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
    slow: float = 0.0  # estimated seconds, of a picture that the threads for slow ones have
    clock: _Clock | None = None  # since a thread has it
    timer: asyncio.TimerHandle | None = None


class Threads:
    """`timeout` in seconds, 0 for none. A thread cannot be ended: a picture that takes too long is
    answered in time, but its thread is lost until the decoder is done with it.

    Pictures that take long by their header have as many threads again, of a lower priority and with memory
    of their own: they delay each other, and ordinary pictures hardly. Those that would wait for more than
    `max_wait` s are refused with Overloaded.

    Crops with a `then` wait for others until there are enough or nothing else is to be done, and the thread
    that finds so calls it: as many threads compute as there are cores, and nothing is handed over.

    asyncio's own way to a thread makes two futures, two locks and five callbacks of each picture: twice the
    time of the event loop.
    """

    def __init__(self, threads: int, max_pixels: int, timeout: float, max_wait: float = math.inf) -> None:
        self._max_pixels = max_pixels
        self._timeout = timeout
        room = max_pixels * BYTES_PER_PIXEL
        self._budget, self._slow_budget = PixelBudget(room // 4), PixelBudget(room)
        self._jobs: SimpleQueue[_Job | None] = SimpleQueue()
        self._slow_jobs: SimpleQueue[_Job | None] = SimpleQueue()
        self._slow_work = SlowWork(threads, max_wait)
        self._made: Together[Then, tuple[_Job, Cropped]] = Together()
        self._stuck: dict[_Job, float] = {}  # since when
        self._threads = [
            threading.Thread(target=self._work, args=(number,), name=f"decode_{number}", daemon=True)
            for number in range(threads)
        ]
        self._slow_threads = [
            threading.Thread(target=self._work_slowly, name=f"decode_slow_{number}", daemon=True)
            for number in range(threads)
        ]

    @property
    def waiting(self) -> int:
        return self._made.waiting

    @property
    def alive(self) -> bool:
        slow = sum(job.slow > 0 for job in self._stuck)
        return max(slow, len(self._stuck) - slow) < len(self._threads)

    @property
    def stuck_for(self) -> float:
        return 0.0 if self.alive else time.perf_counter() - max(self._stuck.values())

    async def start(self) -> None:
        for thread in self._threads + self._slow_threads:
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
            self._slow_jobs.put(None)
        if not self._stuck:
            for thread in self._threads + self._slow_threads:
                await asyncio.to_thread(thread.join)

    def _work(self, number: int) -> None:
        give_way(DECODING)
        keep_to_core(number, len(self._threads))
        self._work_on(self._jobs)

    def _work_slowly(self) -> None:
        give_way(SLOW_DECODING)
        self._work_on(self._slow_jobs)

    def _work_on(self, jobs: "SimpleQueue[_Job | None]") -> None:
        slow = jobs is self._slow_jobs
        while (job := self._next(jobs)) is not None:
            made: Cropped | None = None
            error: BaseException | None = None
            if not job.answer.cancelled():  # whoever asked is still there
                job.clock = _Clock()
                try:
                    made = self._decode(job.data, job.recipe, job.crops, job.clock, slow)
                except BaseException as raised:
                    error = raised
                job.clock.stop()
            if slow:
                self._slow_work.remove(job.slow)
            if isinstance(error, SlowPicture):
                error = self._hand_over(job, error.seconds)
                if error is None:  # another thread has the job
                    del job
                    continue
            if made is not None and job.then is not None:
                self._run(self._made.add(job.then, (job, made), job.then.worth))
            else:
                self._tell(job, self._end, job, made, error)
            del job, made, error  # the next may be long in coming

    def _hand_over(self, job: _Job, seconds: float) -> Overloaded | None:
        """Give the job to the threads for slow pictures, or return why they can't take it."""
        try:
            self._slow_work.add(seconds)
        except Overloaded as error:
            return error
        job.slow = seconds
        self._slow_jobs.put(job)
        return None

    def _next(self, jobs: "SimpleQueue[_Job | None]") -> _Job | None:
        """Before it is waited for, everything that has been made has its turn."""
        self._run(self._made.take(waited=PATIENCE))
        while True:
            with suppress(Empty):
                return jobs.get_nowait()
            if not (batch := self._made.take()):
                return jobs.get()
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

    def _decode(self, data: bytes, recipe: Recipe, crops: int, clock: _Clock, slow: bool) -> Cropped:
        """Is not given the job: an error holds its frames, and the job's answer holds the error."""
        budget = self._slow_budget if slow else self._budget

        @contextmanager
        def reserve(header: Header) -> Iterator[None]:
            if not slow and (seconds := self._slow_seconds(header)):
                raise SlowPicture(seconds)
            with ExitStack() as room:
                with clock.stopped():
                    while header.bytes > LARGE and (batch := self._made.take()):
                        self._run(batch)
                    room.enter_context(budget.reserve(header.bytes))
                yield

        return decode_crops(data, recipe, self._max_pixels, crops, reserve)

    def _slow_seconds(self, header: Header) -> float:
        """Estimate the seconds of a slow picture; 0 for an ordinary one."""
        seconds = estimated_seconds(header)
        return seconds if seconds > SLOW_S or header.bytes > self._budget.limit else 0.0

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
