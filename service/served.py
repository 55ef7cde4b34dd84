"""A model that is served, with the threads that run it."""

import asyncio
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Self

from contract.preprocess import Pixels
from service.batcher import Batcher
from service.metrics import Metrics
from service.priority import BATCHES, give_way
from service.schemas import ModelName
from service.session import CPU, Model, Row
from service.settings import Settings


@dataclass(frozen=True)
class Job:
    """One crop (224, 224, 3) uint8, and what is to be known of it: names of the graph's outputs."""

    pixels: Pixels
    outputs: tuple[str, ...]


class Served:
    """A model under the name and version that it is asked for by, kept until its last request is
    answered. Made on the event loop.
    """

    def __init__(self, model: Model, settings: Settings, metrics: Metrics, name: str, version: int) -> None:
        self.model = model
        self.name = ModelName(name=name, version=version, sha256=model.sha256)
        # On a GPU each lane has buffers of its own; and whoever is to wait for others waits in the queue.
        self.in_any_thread = model.provider == CPU and not settings.max_wait_ms
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
        return self.model.run([job.pixels for job in batch], list(outputs))
