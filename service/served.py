"""A model that is served, with the threads that run it."""

import asyncio
import math
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Self

from alexnet_client.schemas import ModelName
from contract.preprocess import Pixels
from service.batcher import Answer, Batcher
from service.crops import Cropped
from service.metrics import Metrics
from service.priority import BATCHES, give_way
from service.session import CPU, Model, Row
from service.settings import Settings


@dataclass(frozen=True)
class Job:
    """One crop (224, 224, 3) uint8, and what is to be known of it: names of the graph's outputs. `alone`:
    the images inside are all of one request and go into one batch.
    """

    pixels: Pixels
    outputs: tuple[str, ...]
    alone: bool


class Served:
    """A model under the name and version that it is asked for by, kept until its last request is
    answered. Made on the event loop.
    """

    def __init__(self, model: Model, settings: Settings, metrics: Metrics, name: str, version: int) -> None:
        self.model = model
        self.name = ModelName(name=name, version=version, sha256=model.sha256)
        # On a GPU each lane has buffers of its own; and whoever is to wait for others waits in the queue.
        self._in_any_thread = (
            model.provider == CPU and not settings.max_wait_ms and not settings.decode_processes
        )
        self._worth = min(model.worth, settings.max_batch)
        self._metrics = metrics
        self._users = 0
        self._unused = asyncio.Event()
        self._unused.set()
        self.batcher: Batcher[Job, Row] = Batcher(
            self._run,
            settings.max_batch,
            settings.max_wait_ms / 1000,
            model.lanes,
            model.worth,
            begin=partial(give_way, BATCHES),
        )

    def here(self, outputs: tuple[str, ...], inside: int) -> "Here | None":
        """What the thread that has decoded one of the `inside` images may do with it besides, if it may."""
        if not self._in_any_thread:
            return None
        share = math.ceil(inside / self.model.lanes) or self._worth  # on the command line nobody is counted
        return Here(self, outputs, inside == 1, min(share, self._worth))

    @contextmanager
    def use(self) -> Iterator[Self]:
        self._users += 1
        self._unused.clear()
        try:
            yield self
        finally:
            self._users -= 1
            if not self._users:
                self._unused.set()

    async def retire(self) -> None:
        """Once nobody uses it."""
        await self._unused.wait()
        await self.batcher.close()

    def _run(self, batch: list[Job]) -> Sequence[Row]:
        """In a thread of the batcher. What one job asks for is computed for its whole batch."""
        self._metrics.batch_images.observe(len(batch))
        outputs = dict.fromkeys(output for job in batch for output in job.outputs)
        alone = all(job.alone for job in batch)
        return self.model.run([job.pixels for job in batch], list(outputs), alone)


@dataclass(frozen=True)
class Here:
    """Inference in the thread that has decoded: no other is woken, and no picture goes to another core."""

    served: Served
    outputs: tuple[str, ...]
    alone: bool
    worth: int = field(compare=False)  # its lane's share: who waits for more leaves too few for the others

    def __call__(self, made: list[Cropped]) -> list[Answer[Row]]:
        """Of each picture's only crop. Raises what the session raises."""
        began = time.perf_counter()
        rows = self.served.batcher.run_here([Job(each.crops[0], self.outputs, self.alone) for each in made])
        took = time.perf_counter() - began
        return [Answer(row, began - each.ended, took) for each, row in zip(made, rows, strict=True)]
