"""What waits for a network, and which of it is the next batch."""

import asyncio
import math
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from contract.preprocess import Pixels
from service.imaging.decode import DecodedImage
from service.imaging.decoder import Watch
from service.models.session import Model, Row


@dataclass
class BatchResult:
    """What the outputs say of each crop, and the image as it was `decoded`, if it was. The first batch with
    one of the crops `began`, the last `ended`, by the clock.
    """

    rows: list[Row]
    decoded: DecodedImage | None = None
    began: float = math.inf
    ended: float = 0.0


@dataclass(eq=False)
class Request:
    """An image, or crops, that `came` then: `left` are without a row, and have waited for a batch since
    `ready`. A thread decodes the image while it has a `watch`; `slow` is how long that takes, estimated, if
    it is long.
    """

    model: Model
    outputs: tuple[str, ...]
    left: int
    answer: BatchResult
    future: "asyncio.Future[BatchResult]"
    came: float
    data: bytes = b""
    slow: float = 0.0
    watch: Watch | None = None
    ready: float = 0.0
    timer: asyncio.TimerHandle | None = None

    def add_row(self, place: int, row: Row, began: float, ended: float) -> bool:
        """Of a batch that `began` and `ended` then. -> it was the last."""
        answer = self.answer
        answer.rows[place] = row
        answer.began, answer.ended = min(answer.began, began), ended
        self.left -= 1
        return not self.left


class Crop(NamedTuple):
    request: Request
    place: int
    pixels: Pixels


class Batch(NamedTuple):
    """Of one model and the same outputs. `exclusive`: nothing else is in flight."""

    model: Model
    outputs: tuple[str, ...]
    crops: list[Crop]
    exclusive: bool


class Batches:
    """Crops that wait for `threads` threads, which share a lock.

    A batch is due when it is full, or `max_batch_delay` s old, or when a thread has nothing else to do. It
    is full at the model's target batch size, or at each thread's share of what is in flight. With
    `fill_wait` it is full at `max_batch`, and waits that many seconds to become so.
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
        self.in_flight = 0  # crops of all requests, of those that are not decoded yet too

    def __len__(self) -> int:
        return sum(map(len, self._ready.values()))

    def add(self, request: Request, crops: Sequence[Pixels]) -> None:
        request.ready = self._clock()
        ready = self._ready.setdefault((request.model, request.outputs), deque())
        ready.extend(Crop(request, place, pixels) for place, pixels in enumerate(crops))

    def clear(self) -> None:
        self._ready.clear()

    @property
    def due_in(self) -> float | None:
        """Seconds until one is, unless it is full before; None without crops."""
        oldest = [ready[0].request.ready for ready in self._ready.values()]
        return max(0.0, min(oldest) + self._max_batch_delay - self._clock()) if oldest else None

    @property
    def came(self) -> float:
        """When the first of those that wait did; infinite without crops."""
        return min((ready[0].request.came for ready in self._ready.values()), default=math.inf)

    @property
    def full(self) -> bool:
        """One of them is."""
        return any(len(ready) >= self._enough(ready[0].request.model) for ready in self._ready.values())

    def take(self, idle: bool) -> Batch | None:
        """-> the next that is due, without crops whose caller has gone, and of one request no more than a
        thread's share. `idle`: the thread has nothing else to do.
        """
        for (model, outputs), ready in list(self._ready.items()):
            request = ready[0].request
            old = self._clock() - request.ready >= self._max_batch_delay
            if not (old or len(ready) >= self._enough(model) or (idle and not self._fill_wait)):
                continue
            single = ready[-1].request is request
            exclusive = single and len(ready) == request.left == self.in_flight <= self._max_batch
            shared = single and not self._fill_wait and not (exclusive and model.whole)
            most = min(self._max_batch, self._share) if shared else self._max_batch
            del self._ready[model, outputs]
            crops: list[Crop] = []
            while ready and len(crops) < most:
                crop = ready.popleft()
                if not crop.request.future.done():
                    crops.append(crop)
            if ready:
                self._ready[model, outputs] = ready  # behind those of other models
            if crops:
                return Batch(model, outputs, crops, exclusive)
        return None

    def _enough(self, model: Model) -> int:
        return (
            self._max_batch
            if self._fill_wait
            else min(self._max_batch, model.target_batch_size, self._share)
        )

    @property
    def _share(self) -> int:
        return math.ceil(self.in_flight / self._threads)
