"""Decides what each thread does next: run a batch, or decode an image that will be in one."""

import asyncio
import math
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final

from contract.preprocess import Pixels
from service.errors import SchedulerClosed, WorkerLost
from service.host import BATCH_NICE, DECODE_NICE, SLOW_DECODE_NICE, lower_thread_priority, pin_thread
from service.imaging.decode import SlowPicture, too_long
from service.imaging.decoder import Decoder, Watch
from service.inference.batches import Batch, Batches, BatchResult, Request
from service.inference.slow_work import SlowWork
from service.models.session import Model, Row
from service.observability.logs import log

MAX_BATCH_DELAY_S: Final = (
    0.025  # s that a crop waits at most for a fuller batch, while there is more to decode
)
# Model, crops, outputs, and whether nothing else is in flight.
Run = Callable[[Model, list[Pixels], tuple[str, ...], bool], Sequence[Row]]


@dataclass(eq=False)
class _Group:
    """`size` threads that do the same: decode `images`, run batches, or both. Each of `stuck` has had one
    of them since then.
    """

    name: str
    size: int
    nice: int
    changed: threading.Condition
    decodes: bool = False
    runs: bool = False
    images: deque[Request] = field(default_factory=deque)
    stuck: dict[Request, float] = field(default_factory=dict)

    @property
    def lost(self) -> bool:
        return len(self.stuck) == self.size


class Scheduler:
    """So many `threads` decode and run batches, with `pin_cores` on a core each; with `runners` they only
    decode, and those run. `slow` threads decode images that take long, at a lower priority. Those that
    would wait for more than `max_wait` s are refused. See Batches for `max_batch`, the rest.

    A run that fails fails its batch. An image that takes more than `timeout` s (0: any time) to decode is
    answered then, and its thread, which nothing can end, is lost until the decoder is done with it.
    """

    def __init__(
        self,
        decoder: Decoder,
        run: Run,
        threads: int,
        slow: int = 1,
        runners: int = 0,
        max_batch: int = 32,
        fill_wait: float = 0.0,
        timeout: float = 0.0,
        max_wait: float = math.inf,
        pin_cores: bool = True,
        max_batch_delay: float = MAX_BATCH_DELAY_S,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._decoder, self._run, self._timeout, self._clock = decoder, run, timeout, clock
        self._pin_cores, self._lock = pin_cores, threading.Lock()
        self._requests: set[Request] = set()
        self._batches = Batches(runners or threads, max_batch, fill_wait, max_batch_delay, clock)
        self._runs: set[float] = set()  # when each that is under way began
        self._slow_work = SlowWork(slow, max_wait)
        self._closed: str | None = None  # why
        changed = partial(threading.Condition, self._lock)
        self._ordinary = _Group("decode", threads, DECODE_NICE, changed(), decodes=True, runs=not runners)
        self._slow = _Group("slow", slow, SLOW_DECODE_NICE, changed(), decodes=True)
        self._runners = (
            _Group("run", runners, BATCH_NICE, changed(), runs=True) if runners else self._ordinary
        )
        self._groups: list[_Group] = []
        self._threads: list[threading.Thread] = []

    def start(self) -> None:
        self._decoder.start()
        for group in dict.fromkeys((self._ordinary, self._slow, self._runners)):
            self._start_group(group)

    def _start_group(self, group: _Group) -> None:
        self._groups.append(group)
        for n in range(group.size):
            thread = threading.Thread(None, self._work, f"{group.name}_{n}", (group, n), daemon=True)
            thread.start()
            self._threads.append(thread)

    async def close(self) -> None:
        """Whoever waits gets SchedulerClosed; what runs is let finish."""
        self._end("the service is shutting down")
        self._decoder.close()
        if not any(group.stuck for group in self._groups):
            for thread in self._threads:
                await asyncio.to_thread(thread.join)

    @property
    def alive(self) -> bool:
        """Batches are run."""
        return self._closed is None

    @property
    def decodes(self) -> bool:
        """An image that came now would be decoded, sooner or later."""
        return not any(group.lost for group in self._groups) and not self._decoder.stuck_for

    @property
    def stuck_for(self) -> float:
        """Seconds for which nothing has been decoded, or that the oldest run under way has taken so far."""
        now = self._clock()
        with self._lock:
            lost = [max(group.stuck.values()) for group in self._groups if group.lost]
        return max(now - min([now, *lost, *self._runs.copy()]), self._decoder.stuck_for)

    @property
    def waiting(self) -> int:
        """Crops that wait for a batch."""
        with self._lock:
            return len(self._batches)

    async def infer_image(
        self, model: Model, data: bytes, crops: int, outputs: tuple[str, ...]
    ) -> BatchResult:
        """The bytes of an image file -> what the outputs say of its central crop, or of ten. Raises
        ImageError, Overloaded, SchedulerClosed, and what `run` raises.
        """
        return await self._infer(model, outputs, crops, data, [])

    async def infer_crops(
        self, model: Model, crops: Sequence[Pixels], outputs: tuple[str, ...]
    ) -> BatchResult:
        """Crops (224, 224, 3) uint8. Raises SchedulerClosed, and what `run` raises."""
        return await self._infer(model, outputs, len(crops), b"", crops)

    async def _infer(
        self, model: Model, outputs: tuple[str, ...], count: int, data: bytes, crops: Sequence[Pixels]
    ) -> BatchResult:
        loop = asyncio.get_running_loop()
        answer, came = BatchResult([{}] * count), self._clock()
        request = Request(model, outputs, count, answer, loop.create_future(), came, data)
        with self._lock:
            if self._closed is not None:
                raise SchedulerClosed(self._closed)
            self._requests.add(request)
            self._batches.in_flight += count
            if crops:
                self._add_crops(request, crops)
            else:
                self._ordinary.images.append(request)
                self._ordinary.changed.notify()
        if self._timeout and not crops:
            request.timer = loop.call_later(self._timeout, self._look_at, request)
        try:
            return await request.future
        finally:
            with self._lock:
                self._requests.discard(request)
                self._batches.in_flight -= count
                if self._batches.full:  # of fewer, a share is less
                    self._runners.changed.notify()
            if request.timer is not None:
                request.timer.cancel()
            request.data = b""  # a thread may come to it much later, and nobody counts it any more
            del request, data, crops  # an error holds this frame, and the future holds the error

    def _look_at(self, request: Request) -> None:
        """On the event loop, when decoding may have taken too long."""
        with self._lock:
            began = request.watch.began if request.watch else math.inf
            left = self._timeout - max(0.0, self._clock() - began)
            if left > 0:
                request.timer = request.future.get_loop().call_later(left, self._look_at, request)
                return
            group = self._slow if request.slow else self._ordinary
            group.stuck[request] = self._clock()
            lost = len(group.stuck), group.size
            if group is self._runners and group.lost:  # crops that wait, or come without an image, go on
                self._runners = _Group("run", 1, BATCH_NICE, threading.Condition(self._lock), runs=True)
                self._start_group(self._runners)
        log.warning("an image takes longer than DECODE_TIMEOUT_MS: %d of %d threads are lost", *lost)
        _deliver([(request, too_long(self._timeout))])

    def _add_crops(self, request: Request, crops: Sequence[Pixels]) -> None:
        """With the lock. Wakes a thread where there is something to run, or to wait for."""
        first = not self._batches
        self._batches.add(request, crops)
        if first or self._batches.full:
            self._runners.changed.notify()

    def _work(self, group: _Group, number: int) -> None:
        lower_thread_priority(group.nice)
        if self._pin_cores and group is self._ordinary:
            pin_thread(number, group.size)
        while (work := self._next(group)) is not None:
            if isinstance(work, Request):
                self._decode(group, work)
            else:
                self._run_batch(work)
            del work  # the next may be long in coming

    def _next(self, group: _Group) -> Request | Batch | None:
        """-> a batch to run, or an image to decode, which waits for none that came later; or the end."""
        with self._lock:
            while self._closed is None:
                idle = group.decodes and not group.images
                first = not group.images or self._batches.came <= group.images[0].came
                if group.runs and first and (batch := self._batches.take(idle)):
                    if self._batches:
                        group.changed.notify()
                    return batch
                if group.images:
                    return group.images.popleft()
                group.changed.wait(self._batches.due_in if group.runs else None)
        return None

    def _decode(self, group: _Group, request: Request) -> None:
        made = error = None
        try:
            if not request.future.done():  # else whoever asked has gone
                request.watch, slow = Watch(), group is self._slow
                how = request.model.manifest.recipe, request.left, slow, request.watch
                made, error = _attempt(self._decoder.decode, request.data, *how)
            with self._lock:
                request.watch = None
                group.stuck.pop(request, None)
                if group is self._slow:
                    self._slow_work.remove(request.slow)
                if isinstance(error, SlowPicture):
                    request.slow, error = error.seconds, self._slow_work.refusal(error.seconds)
                    if error is None:
                        self._slow.images.append(request)
                        self._slow.changed.notify()
                elif made is not None:
                    request.answer.decoded = made
                    add = self._batches.add if group.runs else self._add_crops  # it sees to them itself
                    add(request, made.crops)
            if error is not None:
                _tell([(request, error)])
        finally:
            del request, error  # an error holds this frame, by way of the frames that it was raised in

    def _run_batch(self, batch: Batch) -> None:
        error = None
        try:
            began = self._clock()
            self._runs.add(began)
            pixels = [crop.pixels for crop in batch.crops]
            rows, error = _attempt(self._run, batch.model, pixels, batch.outputs, batch.exclusive)
            self._runs.discard(began)
            if isinstance(error, Exception) and not isinstance(error, WorkerLost):
                _tell([(request, error) for request in {crop.request for crop in batch.crops}])
            elif error is not None:  # or a panic in native code, which says nothing
                self._end(str(error) or "the inference worker has ended")
            else:
                ended, crops = self._clock(), zip(batch.crops, rows, strict=True)
                with self._lock:
                    answered = [r for (r, place, _), row in crops if r.add_row(place, row, began, ended)]
                _tell([(request, request.answer) for request in answered])
        finally:
            del batch, error

    def _end(self, why: str) -> None:
        with self._lock:
            self._closed = self._closed or why
            self._batches.clear()
            for group in self._groups:
                group.images.clear()
                group.changed.notify_all()
            ended = [(request, SchedulerClosed(why)) for request in self._requests]
        _tell(ended)


def _tell(answered: Sequence[tuple[Request, BatchResult | BaseException]]) -> None:
    if answered:
        with suppress(RuntimeError):  # the event loop was closed meanwhile: nobody waits
            answered[0][0].future.get_loop().call_soon_threadsafe(_deliver, answered)


def _deliver(answered: Sequence[tuple[Request, BatchResult | BaseException]]) -> None:
    for request, answer in answered:
        if request.future.done():  # whoever asked has gone, or was told that it takes too long
            continue
        if isinstance(answer, BaseException):
            request.future.set_exception(answer)
        else:
            request.future.set_result(answer)


def _attempt(call: Callable[..., Any], *args: Any) -> tuple[Any, BaseException | None]:
    """-> what the call returns, or raises. An error holds this frame, so no more is passed than needed."""
    try:
        return call(*args), None
    except BaseException as error:
        return None, error
