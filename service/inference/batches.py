"""Collect waiting crops by model, and choose which form the next batch, and when."""

import asyncio
import math
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from service.device_crops import Crops
from service.imaging.decode import DecodedImage
from service.imaging.decoder import DecodeClock
from service.models.session import Model, Outputs


@dataclass
class BatchResult:
    """The outputs of a request's `crops`, and its `decoded` image if it came as a file.

    Each of the `outputs` is an array with a row per crop. `began` is when the first batch with one of the
    crops began, `ended` when the last one ended (seconds of the scheduler's clock).
    """

    crops: int
    outputs: Outputs = field(default_factory=dict)
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

    def add_rows(self, first: int, rows: Outputs, began: float, ended: float) -> bool:
        """Store the rows of crops from `first` on, of a batch that ran from `began` to `ended`.

        Returns whether no crop is left.
        """
        result, count = self.result, len(next(iter(rows.values())))
        if count == result.crops:
            result.outputs = rows
        else:
            for name, values in rows.items():
                if name not in result.outputs:
                    result.outputs[name] = np.empty((result.crops, *values.shape[1:]), values.dtype)
                result.outputs[name][first : first + count] = values
        result.began, result.ended = min(result.began, began), ended
        self.unanswered -= count
        return not self.unanswered


class Part(NamedTuple):
    """Consecutive crops of a request, (N, 224, 224, 3) uint8; `first` is the number of the first one."""

    request: Request
    first: int
    pixels: Crops

    def split(self, count: int) -> "tuple[Part, Part]":
        first, pixels = self.first, self.pixels
        return self._replace(pixels=pixels[:count]), Part(self.request, first + count, pixels[count:])


class Batch(NamedTuple):
    """Crops for one model and the same outputs. `exclusive`: nothing else is in flight."""

    model: Model
    outputs: tuple[str, ...]
    parts: list[Part]
    exclusive: bool

    def add_rows(self, rows: Outputs, began: float, ended: float) -> list[Request]:
        """Give each part its `rows`; return the requests that have no crop left."""
        answered, at = list[Request](), 0
        for request, first, pixels in self.parts:
            end = at + len(pixels)
            own = {name: values[at:end] for name, values in rows.items()}
            if request.add_rows(first, own, began, ended):
                answered.append(request)
            at = end
        return answered


@dataclass
class _Waiting:
    """The parts that wait for the same model and outputs, and how many `crops` they have."""

    parts: deque[Part] = field(default_factory=deque)
    crops: int = 0

    @property
    def oldest(self) -> Request:
        return self.parts[0].request

    def take(self, max_crops: int) -> list[Part]:
        """Remove and return parts of at most `max_crops` crops, without those whose caller has gone."""
        taken: list[Part] = []
        while self.parts and max_crops:
            part = self.parts.popleft()
            self.crops -= len(part.pixels)
            if part.request.future.done():
                continue
            if len(part.pixels) > max_crops:
                part, rest = part.split(max_crops)
                self.parts.appendleft(rest)
                self.crops += len(rest.pixels)
            max_crops -= len(part.pixels)
            taken.append(part)
        return taken


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
        self._waiting: dict[tuple[Model, tuple[str, ...]], _Waiting] = {}
        self.in_flight = 0  # crops of all requests, those of images not yet decoded included

    def __len__(self) -> int:
        return sum(waiting.crops for waiting in self._waiting.values())

    def add(self, request: Request, crops: Crops) -> None:
        request.ready_at = self._clock()
        waiting = self._waiting.setdefault((request.model, request.outputs), _Waiting())
        waiting.parts.append(Part(request, 0, crops))
        waiting.crops += len(crops)

    def clear(self) -> None:
        self._waiting.clear()

    @property
    def due_in(self) -> float | None:
        """Seconds until a batch is due by its age; None without crops."""
        ready_times = [waiting.oldest.ready_at for waiting in self._waiting.values()]
        return max(0.0, min(ready_times) + self._max_batch_delay - self._clock()) if ready_times else None

    @property
    def oldest_arrival(self) -> float:
        """When the oldest of the waiting requests arrived; infinite without crops."""
        return min((waiting.oldest.arrived_at for waiting in self._waiting.values()), default=math.inf)

    @property
    def full(self) -> bool:
        """Whether any batch is full."""
        return any(waiting.crops >= self._full_size(model) for (model, _), waiting in self._waiting.items())

    def take(self, idle: bool) -> Batch | None:
        """Remove and return the next batch that is due; `idle` means the thread has nothing else to do.

        Crops whose caller has gone are left out, and of a single request at most a thread's share is
        taken, so that the threads run it side by side.
        """
        for (model, outputs), waiting in list(self._waiting.items()):
            request, count = waiting.oldest, waiting.crops
            overdue = self._clock() - request.ready_at >= self._max_batch_delay
            if not (overdue or count >= self._full_size(model) or (idle and not self._fill_wait)):
                continue
            single = waiting.parts[-1].request is request
            exclusive = single and count == request.unanswered == self.in_flight <= self._max_batch
            shared = single and not self._fill_wait and not (exclusive and model.whole)
            max_crops = min(self._max_batch, self._share) if shared else self._max_batch
            del self._waiting[model, outputs]
            if parts := waiting.take(max_crops):
                if waiting.parts:
                    self._waiting[model, outputs] = waiting  # the rest queues behind other models
                return Batch(model, outputs, parts, exclusive)
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
