"""Queue images and crops, and let worker threads decode them and run them in batches."""

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

from service.device_crops import Crops
from service.errors import SchedulerClosed, WorkerLost
from service.host import BATCH_NICE, DECODE_NICE, SLOW_DECODE_NICE, lower_thread_priority, pin_thread
from service.imaging.decode import SlowPicture, too_long
from service.imaging.decoder import DecodeClock, Decoder
from service.inference.batches import Batch, Batches, BatchResult, Request
from service.inference.slow_work import SlowWork
from service.models.session import Model, Outputs
from service.observability.logs import log

MAX_BATCH_DELAY_S: Final = 0.025  # that a crop waits for a fuller batch while more images are decoded
Names = tuple[str, ...]
Run = Callable[[Model, list[Crops], Names, bool], Outputs]  # bool: nothing else is in flight


@dataclass(eq=False)
class _Group:
    """`size` threads with the same duties: decode `images`, run batches, or both."""

    name: str
    size: int
    nice: int
    changed: threading.Condition
    decodes: bool = False
    runs: bool = False
    images: deque[Request] = field(default_factory=deque)
    stuck: dict[Request, float] = field(default_factory=dict)  # since when images block threads

    @property
    def lost(self) -> bool:
        return len(self.stuck) == self.size


class Scheduler:
    """Run `threads` threads that decode and run batches; `pin_cores` gives each a core of its own.

    If `runners` is not 0, these threads only decode, and that many further threads run the batches. `slow`
    threads decode slow images at a lower priority; images that would wait longer than `max_wait` s are
    refused. A failed run fails its batch. An image that decodes for more than `timeout` s fails; its thread
    is blocked until the decoder returns (0: no limit here, ProcessDecoder has its own).
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
        self._requests, self._runs = set[Request](), set[float]()  # runs by the time that they began
        self._batches = Batches(runners or threads, max_batch, fill_wait, max_batch_delay, clock)
        self._slow_work = SlowWork(slow, max_wait)
        self._closed: str | None = None  # why
        changed = partial(threading.Condition, self._lock)
        self._ordinary = _Group("decode", threads, DECODE_NICE, changed(), decodes=True, runs=not runners)
        self._slow = _Group("slow", slow, SLOW_DECODE_NICE, changed(), decodes=True)
        self._runners = self._ordinary
        if runners:
            self._runners = _Group("run", runners, BATCH_NICE, changed(), runs=True)
        self._groups, self._threads = list[_Group](), list[threading.Thread]()

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
        """Fail the waiting requests with SchedulerClosed; wait for the threads, unless one is stuck."""
        self._abort("the service is shutting down")
        self._decoder.close()
        if not any(group.stuck for group in self._groups):
            for thread in self._threads:
                await asyncio.to_thread(thread.join)

    @property
    def alive(self) -> bool:
        """Whether the scheduler accepts work: neither closed nor failed."""
        return self._closed is None

    @property
    def decodes(self) -> bool:
        """Whether each group has a thread that is free or will be, and the decoder works."""
        return not any(group.lost for group in self._groups) and not self._decoder.stuck_for

    @property
    def stuck_for(self) -> float:
        """Seconds since a group lost its last thread, the decoder failed, or the oldest run began."""
        now = self._clock()
        with self._lock:
            lost = [max(group.stuck.values()) for group in self._groups if group.lost]
        return max(now - min([now, *lost, *self._runs.copy()]), self._decoder.stuck_for)

    @property
    def waiting(self) -> int:
        """How many crops wait for a batch."""
        with self._lock:
            return len(self._batches)

    async def infer_image(self, model: Model, data: bytes, crops: int, outputs: Names) -> BatchResult:
        """Infer the central crop of an image file, or its ten crops.

        Raises ImageError, Overloaded, SchedulerClosed, and what `run` raises.
        """
        return await self._infer(model, outputs, crops, data, None)

    async def infer_crops(self, model: Model, crops: Crops, outputs: Names) -> BatchResult:
        """Infer crops (N, 224, 224, 3) uint8. Raises SchedulerClosed, and what `run` raises."""
        return await self._infer(model, outputs, len(crops), b"", crops)

    async def _infer(
        self, model: Model, outputs: Names, count: int, data: bytes, crops: Crops | None
    ) -> BatchResult:
        loop = asyncio.get_running_loop()
        result, now = BatchResult(count), self._clock()
        request = Request(model, outputs, count, result, loop.create_future(), now, data)
        with self._lock:
            if self._closed is not None:
                raise SchedulerClosed(self._closed)
            self._requests.add(request)
            self._batches.in_flight += count
            if crops is not None:
                self._add_crops(request, crops)
            else:
                self._ordinary.images.append(request)
                self._ordinary.changed.notify()
        if self._timeout and crops is None:
            request.timer = loop.call_later(self._timeout, self._check_timeout, request)
        try:
            return await request.future
        finally:
            with self._lock:
                self._requests.discard(request)
                self._batches.in_flight -= count
                if self._batches.full:  # each thread's share is smaller now
                    self._runners.changed.notify()
            if request.timer is not None:
                request.timer.cancel()
            request.data = b""  # a thread may reach it much later, when admission no longer counts it
            del request, data, crops  # an error keeps this frame alive, and the future keeps the error

    def _check_timeout(self, request: Request) -> None:
        """Give an image up if it takes too long to decode. Runs on the event loop."""
        with self._lock:
            began = request.decode_clock.began if request.decode_clock else math.inf
            remaining = self._timeout - max(0.0, self._clock() - began)
            if remaining > 0:
                loop = request.future.get_loop()
                request.timer = loop.call_later(remaining, self._check_timeout, request)
                return
            group = self._slow if request.slow_s else self._ordinary
            group.stuck[request] = self._clock()
            lost = len(group.stuck), group.size
            if group is self._runners and group.lost:  # decoded crops and tensors are still run
                self._runners = _Group("run", 1, BATCH_NICE, threading.Condition(self._lock), runs=True)
                self._start_group(self._runners)
        log.warning("an image takes longer than DECODE_TIMEOUT_MS; %d of %d threads are blocked", *lost)
        _deliver([(request, too_long(self._timeout))])

    def _add_crops(self, request: Request, crops: Crops) -> None:
        """Add crops, and wake a thread if one is needed. The caller holds the lock."""
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
            del work  # frees it while the thread waits for the next

    def _next(self, group: _Group) -> Request | Batch | None:
        """Wait for a due batch or an image, the one that arrived first; None when closed."""
        with self._lock:
            while self._closed is None:
                idle = group.decodes and not group.images
                first = not group.images or self._batches.oldest_arrival <= group.images[0].arrived_at
                if group.runs and first and (batch := self._batches.take(idle)):
                    if self._batches:
                        group.changed.notify()
                    return batch
                if group.images:
                    return group.images.popleft()
                group.changed.wait(self._batches.due_in if group.runs else None)
        return None

    def _decode(self, group: _Group, request: Request) -> None:
        decoded = error = None
        try:
            if not request.future.done():  # else the caller has gone
                request.decode_clock, slow = DecodeClock(), group is self._slow
                args = request.model.manifest.recipe, request.unanswered, slow, request.decode_clock
                decoded, error = _attempt(self._decoder.decode, request.data, *args)
            with self._lock:
                request.decode_clock = None
                group.stuck.pop(request, None)
                if group is self._slow:
                    self._slow_work.remove(request.slow_s)
                if isinstance(error, SlowPicture):
                    request.slow_s, error = error.seconds, self._slow_work.refusal(error.seconds)
                    if error is None:
                        self._slow.images.append(request)
                        self._slow.changed.notify()
                elif decoded is not None:
                    request.result.decoded = decoded
                    add = self._batches.add if group.runs else self._add_crops  # a runner needs no waking
                    add(request, decoded.crops)
            if error is not None:
                _post_results([(request, error)])
        finally:
            del request, error  # the error's traceback keeps this frame alive

    def _run_batch(self, batch: Batch) -> None:
        error = None
        try:
            began = self._clock()
            self._runs.add(began)
            pixels = [part.pixels for part in batch.parts]
            rows, error = _attempt(self._run, batch.model, pixels, batch.outputs, batch.exclusive)
            self._runs.discard(began)
            if error is None:
                with self._lock:
                    answered, error = _attempt(batch.add_rows, rows, began, self._clock())
            if isinstance(error, Exception) and not isinstance(error, WorkerLost):
                _post_results([(request, error) for request in {part.request for part in batch.parts}])
            elif error is not None:  # the worker is lost, or native code panicked, without a message
                self._abort(str(error) or "the inference worker has ended")
            else:
                _post_results([(request, request.result) for request in answered])
        finally:
            del batch, error

    def _abort(self, reason: str) -> None:
        with self._lock:
            self._closed = self._closed or reason
            self._batches.clear()
            for group in self._groups:
                group.images.clear()
                group.changed.notify_all()
            failed = [(request, SchedulerClosed(reason)) for request in self._requests]
        _post_results(failed)


def _post_results(results: Sequence[tuple[Request, BatchResult | BaseException]]) -> None:
    if results:
        with suppress(RuntimeError):  # the event loop was closed meanwhile
            results[0][0].future.get_loop().call_soon_threadsafe(_deliver, results)


def _deliver(results: Sequence[tuple[Request, BatchResult | BaseException]]) -> None:
    for request, result in results:
        if request.future.done():  # the caller has gone, or its image took too long
            continue
        if isinstance(result, BaseException):
            request.future.set_exception(result)
        else:
            request.future.set_result(result)


def _attempt(call: Callable[..., Any], *args: Any) -> tuple[Any, BaseException | None]:
    """Return what the call returns, or its error, which keeps this frame and so `args` alive."""
    try:
        return call(*args), None
    except BaseException as error:
        return None, error
