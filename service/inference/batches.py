"""Collect waiting crops by model, and choose which form the next batch, and when."""

import asyncio
import math
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from contract.preprocess import Pixels
from service.imaging.decode import DecodedImage
from service.imaging.decoder import DecodeClock
from service.models.session import Model, Row


@dataclass
class BatchResult:
    """The outputs of a request's crops, one row each, and its `decoded` image if it came as a file.

    `began` is when the first batch with one of the crops began, `ended` when the last one ended (seconds
    of the scheduler's clock).
    """

    rows: list[Row]
    decoded: DecodedImage | None = None
    began: float = math.inf
    ended: float = 0.0


@dataclass(eq=False)
class Request:
    """An image file, or crops, that a caller waits for.

    `unanswered` crops have no row yet; they wait for a batch since `ready_at`. `decode_clock` is there
    while a thread decodes the image; `slow_s` is how long that takes, estimated, if it is long.
    """

    model: Model
    outputs: tuple[str, ...]
    unanswered: int
    result: BatchResult
    future: "asyncio.Future[BatchResult]"
    arrived_at: float
    data: bytes = b""
    slow_s: float = 0.0
    decode_clock: DecodeClock | None = None
    ready_at: float = 0.0
    timer: asyncio.TimerHandle | None = None

    def add_row(self, number: int, row: Row, began: float, ended: float) -> bool:
        """Store a crop's row from a batch that ran from `began` to `ended`; return if it was the last."""
        result = self.result
        result.rows[number] = row
        result.began, result.ended = min(result.began, began), ended
        self.unanswered -= 1
        return not self.unanswered


class Crop(NamedTuple):
    request: Request
    number: int  # of the request's crops
    pixels: Pixels


class Batch(NamedTuple):
    """Crops for one model and the same outputs. `exclusive`: nothing else is in flight."""

    model: Model
    outputs: tuple[str, ...]
    crops: list[Crop]
    exclusive: bool


class Batches:
    """Hold the crops that wait for one of `threads` threads; the caller holds the threads' lock.

    A batch is due when it is full, when its oldest crop has waited `max_batch_delay` s, or when a thread
    has nothing else to do. It is full at the model's target batch size, or at each thread's share of the
    crops in flight if that is less. With `fill_wait` it is full at `max_batch` only, and waits up to
    that many seconds instead.
    """

    def __init__(
        self,
        threads: int,
        max_batch: int,
        fill_wait: float,
        max_batch_delay: float,
        clock: Callable[[], float],
    ) -> None:
        self._threads, self._max_batch, self._clock = threads, max_batch, clock
        self._fill_wait, self._max_batch_delay = bool(fill_wait), fill_wait or max_batch_delay
        self._ready: dict[tuple[Model, tuple[str, ...]], deque[Crop]] = {}
        self.in_flight = 0  # crops of all requests, those of images not yet decoded included

    def __len__(self) -> int:
        return sum(map(len, self._ready.values()))

    def add(self, request: Request, crops: Sequence[Pixels]) -> None:
        request.ready_at = self._clock()
        ready = self._ready.setdefault((request.model, request.outputs), deque())
        ready.extend(Crop(request, number, pixels) for number, pixels in enumerate(crops))

    def clear(self) -> None:
        self._ready.clear()

    @property
    def due_in(self) -> float | None:
        """Seconds until a batch is due by its age; None without crops."""
        ready_times = [ready[0].request.ready_at for ready in self._ready.values()]
        return max(0.0, min(ready_times) + self._max_batch_delay - self._clock()) if ready_times else None

    @property
    def oldest_arrival(self) -> float:
        """When the oldest of the waiting requests arrived; infinite without crops."""
        return min((ready[0].request.arrived_at for ready in self._ready.values()), default=math.inf)

    @property
    def full(self) -> bool:
        """Whether any batch is full."""
        return any(len(ready) >= self._full_size(ready[0].request.model) for ready in self._ready.values())

    def take(self, idle: bool) -> Batch | None:
        """Remove and return the next batch that is due; `idle` means the thread has nothing else to do.

        Crops whose caller has gone are left out, and of a single request at most a thread's share is
        taken, so that the threads run it side by side.
        """
        for (model, outputs), ready in list(self._ready.items()):
            request = ready[0].request
            overdue = self._clock() - request.ready_at >= self._max_batch_delay
            if not (overdue or len(ready) >= self._full_size(model) or (idle and not self._fill_wait)):
                continue
            single = ready[-1].request is request
            exclusive = single and len(ready) == request.unanswered == self.in_flight <= self._max_batch
            shared = single and not self._fill_wait and not (exclusive and model.whole)
            max_crops = min(self._max_batch, self._share) if shared else self._max_batch
            del self._ready[model, outputs]
            crops: list[Crop] = []
            while ready and len(crops) < max_crops:
                crop = ready.popleft()
                if not crop.request.future.done():
                    crops.append(crop)
            if ready:
                self._ready[model, outputs] = ready  # the rest queues behind other models
            if crops:
                return Batch(model, outputs, crops, exclusive)
        return None

    def _full_size(self, model: Model) -> int:
        return (
            self._max_batch
            if self._fill_wait
            else min(self._max_batch, model.target_batch_size, self._share)
        )

    @property
    def _share(self) -> int:
        return math.ceil(self.in_flight / self._threads)
