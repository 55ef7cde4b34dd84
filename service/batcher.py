"""Dynamic batching by being busy: a batch is what queued up while the last one ran, or is about to.

Knows asyncio and nothing else: no HTTP, no numpy, no ONNX Runtime.
"""

import asyncio
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Final, Generic, TypeVar

PATIENCE: Final = 0.025  # s that an item waits at most for others that are on their way
Item = TypeVar("Item")
Result = TypeVar("Result")


class BatcherClosed(RuntimeError):
    """The batcher takes nothing any more: it was closed, or its worker died."""


class WorkerLost(RuntimeError):
    """Raised by `run`: no batch will ever run again, in this process. The message is for clients."""


@dataclass
class _Waiting(Generic[Item, Result]):
    item: Item
    future: "asyncio.Future[Answer[Result]]"
    since: float = field(default_factory=time.perf_counter)


@dataclass(frozen=True)
class Answer(Generic[Result]):
    """`queued` and `ran` in seconds: waiting for the batch, and the batch's run."""

    result: Result
    queued: float
    ran: float


class Batcher(Generic[Item, Result]):
    """`run` maps a list of up to `max_batch` items to as many results, in order; it is called in `lanes`
    threads at a time, each of which calls `begin` first, and in whichever thread calls `run_here`. Up to
    `worth` items, a run takes less for each the more there are: so many are waited for where they are on
    their way (`expecting`), but no lane waits for more than its share of them.

    A failing run fails the items of its own batch only, unless it raises WorkerLost: that ends the batcher,
    and everybody who waits gets BatcherClosed. An item whose caller has gone away (its
    future cancelled) is left out when the batch is assembled.
    """

    def __init__(
        self,
        run: Callable[[list[Item]], Sequence[Result]],
        max_batch: int,
        max_wait: float = 0.0,
        lanes: int = 1,
        worth: int = 1,
        begin: Callable[[], None] = lambda: None,
    ) -> None:
        self._run = run
        self._max_batch = max_batch
        self._max_wait = max_wait
        self._lanes = lanes
        self._worth = min(worth, max_batch)
        self._expected = 0
        self._patience: asyncio.TimerHandle | None = None
        self._waiting: deque[_Waiting[Item, Result]] = deque()
        self._running: set[float] = set()  # when each run under way began
        self._arrived = asyncio.Event()
        self._threads = ThreadPoolExecutor(lanes, "inference", initializer=begin)
        self._workers = [asyncio.create_task(self._work()) for _lane in range(lanes)]
        for worker in self._workers:
            worker.add_done_callback(lambda _worker: self._fail_waiting())

    @property
    def alive(self) -> bool:
        return not any(worker.done() for worker in self._workers)

    @property
    def running_for(self) -> float:
        """Seconds that the oldest run under way has taken so far; 0 between runs."""
        running = self._running.copy()  # other threads add to it
        return time.perf_counter() - min(running) if running else 0.0

    @property
    def waiting(self) -> int:
        return len(self._waiting)

    @contextmanager
    def expecting(self, items: int) -> Iterator[None]:
        """So many are about to be submitted, or will turn out not to be."""
        self._expected += items
        try:
            yield
        finally:
            self._expected -= items
            if self._waiting:
                self._arrived.set()

    def submit(self, item: Item) -> "asyncio.Future[Answer[Result]]":
        """Ends in the result, in what `run` raised on the batch, or in BatcherClosed. Raises that too."""
        if not self.alive:
            raise BatcherClosed("the inference worker has ended")
        waiting: _Waiting[Item, Result] = _Waiting(item, asyncio.get_running_loop().create_future())
        self._waiting.append(waiting)
        self._arrived.set()
        return waiting.future

    def run_here(self, items: list[Item]) -> Sequence[Result]:
        """At once, in the thread that calls, beside the lanes. Raises what `run` raises."""
        started = self._begin()
        try:
            return self._checked(items)
        finally:
            self._running.discard(started)

    async def close(self) -> None:
        """Every call still waiting gets BatcherClosed; the run under way is let finish."""
        if self._patience is not None:
            self._patience.cancel()
        for worker in self._workers:
            worker.cancel()
        await asyncio.wait(self._workers)
        await asyncio.to_thread(self._threads.shutdown)

    async def _work(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await self._arrived.wait()
            if self._max_wait and len(self._waiting) < self._max_batch:
                await asyncio.sleep(self._max_wait)
            if self._more_is_worth_waiting_for():
                continue
            batch = self._assemble()
            if not batch:
                continue
            try:
                run = loop.run_in_executor(self._threads, self._checked, [w.item for w in batch])
            except RuntimeError as error:  # there are no threads any more, and no new ones can be had
                self._deliver_failure(batch, BatcherClosed(f"the inference thread has ended: {error}"))
                return
            started = self._begin()
            try:
                results = await asyncio.shield(run)
            except asyncio.CancelledError:
                self._deliver_failure(batch, BatcherClosed("the service is shutting down"))
                run.add_done_callback(lambda ended: ended.exception())  # nobody waits for it any more
                raise
            except WorkerLost as lost:
                self._deliver_failure(batch, BatcherClosed(str(lost)))
                return
            except Exception as error:
                self._deliver_failure(batch, error)
            except BaseException:  # such as a panic in native code: the worker ends with it
                self._deliver_failure(batch, BatcherClosed("the inference worker has ended"))
                raise
            else:
                ran = time.perf_counter() - started
                for waiting, result in zip(batch, results, strict=True):
                    if not waiting.future.done():
                        waiting.future.set_result(Answer(result, started - waiting.since, ran))
                del waiting, result, results
            finally:
                self._running.discard(started)
                del batch, run  # the next may be long in coming

    def _begin(self) -> float:
        started = time.perf_counter()
        self._running.add(started)
        return started

    def _checked(self, items: list[Item]) -> Sequence[Result]:
        results = self._run(items)
        if len(results) != len(items):
            raise RuntimeError(f"{len(items)} items gave {len(results)} results")
        return results

    def _more_is_worth_waiting_for(self) -> bool:
        """Whoever is told so is woken when that changes."""
        share = min(self._worth, (len(self._waiting) + self._expected) // self._lanes)
        if not 0 < len(self._waiting) < share:
            return False
        left = self._waiting[0].since + PATIENCE - time.perf_counter()
        if left <= 0:
            return False
        self._arrived.clear()
        if self._patience is None:
            self._patience = asyncio.get_running_loop().call_later(left, self._end_patience)
        return True

    def _end_patience(self) -> None:
        self._patience = None
        self._arrived.set()

    def _assemble(self) -> list[_Waiting[Item, Result]]:
        batch: list[_Waiting[Item, Result]] = []
        while self._waiting and len(batch) < self._max_batch:
            waiting = self._waiting.popleft()
            if not waiting.future.done():
                batch.append(waiting)
        if not self._waiting:
            self._arrived.clear()
        return batch

    def _fail_waiting(self) -> None:
        self._deliver_failure(self._waiting, BatcherClosed("the inference worker has ended"))
        self._waiting.clear()

    @staticmethod
    def _deliver_failure(batch: Sequence[_Waiting[Item, Result]], error: Exception) -> None:
        for waiting in batch:
            if not waiting.future.done():
                waiting.future.set_exception(error)
