"""A request's way once its body is there, which never turns back: a worker thread decodes and crops ->
queue -> a thread of the session's runs the batch. An image that is alone does not queue.
"""

import asyncio
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass

from starlette.types import Scope

from contract.preprocess import Pixels
from contract.recipe import Recipe
from service.admission import Admission
from service.crops import Then
from service.decoding import Decoder
from service.errors import NotReady
from service.metrics import Metrics
from service.repository import Repository
from service.schemas import ImageInfo
from service.served import Job, Served
from service.session import Row, gpu_memory_used
from service.settings import Settings
from service.traces import TRACED, span


def engine_of(scope: Scope) -> "Engine":
    """Of a request to an application that has started."""
    found: Engine = scope["app"].state.engine
    return found


@dataclass(frozen=True)
class Decoded:
    """The crops (224, 224, 3) uint8 of an image; `waited` for a thread and `took` in it, seconds."""

    crops: list[Pixels]
    info: ImageInfo
    waited: float
    took: float


@dataclass(frozen=True)
class Inferred:
    """What the outputs say of each crop; `waited` until the first batch with one of them began, `took`
    from then to the end of the last, seconds.
    """

    rows: list[Row]
    waited: float
    took: float


class Engine:
    """What the routes share while the application runs, on the event loop. `draining` says that the
    server is stopping, `failed` that no batch will ever be run again; `reload_wanted` is set by SIGHUP.
    """

    def __init__(
        self, settings: Settings, repository: Repository, decoder: Decoder, metrics: Metrics
    ) -> None:
        self._settings = settings
        self._decoder = decoder
        self.metrics = metrics
        self.repository = repository
        self.admission = Admission(
            settings.max_queue, settings.max_queue_bytes, settings.max_queue_per_key or settings.max_queue
        )
        self.draining = False
        self.failed = False
        self.reload_wanted = False
        metrics.watch(self._gauges)

    def _gauges(self) -> dict[str, float]:
        return {
            "ready": self.ready,
            "inside_images": self.admission.inside,
            "inside_images_limit": self._settings.max_queue,
            "queue_images": sum(served.batcher.waiting for served in self.repository.served),
            "gpu_memory_bytes": gpu_memory_used(s.model.provider for s in self.repository.served),
        }

    @property
    def alive(self) -> bool:
        """A model is served, and no batch fails to be run."""
        batchers = [served.batcher for served in self.repository.served]
        return bool(batchers) and all(batcher.alive for batcher in batchers)

    @property
    def ready(self) -> bool:
        return self.alive and self._decoder.alive and not self.draining

    def require_ready(self) -> None:
        """Raises NotReady where an image would be better off elsewhere; here it may still be answered."""
        self.require_worker()
        if not self._decoder.alive:
            raise NotReady(
                "nothing is decoded: images that take longer than DECODE_TIMEOUT_MS hold every thread"
            )
        if self.draining:
            raise NotReady("the server is stopping")

    def require_worker(self) -> None:
        """Raises NotReady where no image can be answered. A server that is stopping still answers."""
        if not any(self.repository.served):
            raise NotReady("no model is loaded")
        if not self.alive:
            raise NotReady("the inference worker has ended; the server needs a restart")

    @property
    def stuck(self) -> bool:
        """Nothing is decoded or no batch runs any more, for longer than any request may take."""
        limit = self._settings.request_timeout_s
        if self._decoder.stuck_for > limit:
            return True
        batchers = [served.batcher for served in self.repository.served]
        return any(not batcher.alive or batcher.running_for > limit for batcher in batchers)

    async def look(
        self, served: Served, data: bytes, outputs: tuple[str, ...], crops: int
    ) -> tuple[Decoded, Inferred]:
        """The bytes of an image file -> its central crop, or ten, and what the outputs say of each. Raises
        ImageError, BatcherClosed, or what the session raised.

        An image that is alone in the house is inferred by the thread that has decoded it: no other has to
        wake, nor a core that was at rest.
        """
        recipe, found = served.model.manifest.recipe, list[Inferred]()

        def infer_here(made: list[Pixels]) -> None:
            began = time.perf_counter()
            with suppress(BaseException):  # it is tried again in a lane, whose failures are known to all
                rows = served.batcher.run_here([Job(crop, outputs) for crop in made])
                found.append(Inferred(list(rows), 0.0, time.perf_counter() - began))

        if crops == self.admission.inside == 1 and served.in_any_thread and not TRACED:
            decoded = await self.decode(data, recipe, crops, infer_here)
        else:
            with served.batcher.expecting(crops):
                decoded = await self.decode(data, recipe, crops)
        if not found:
            return decoded, await self.infer(served, decoded.crops, outputs)
        self.metrics.inference_seconds.observe(found[0].took)
        return decoded, found[0]

    async def decode(self, data: bytes, recipe: Recipe, crops: int, then: Then | None = None) -> Decoded:
        """The bytes of an image file -> its central crop, or ten. Raises ImageError."""
        asked = time.perf_counter()
        with span("decode"):
            made = await self._decoder.decode(data, recipe, crops, then)
        took = made.ended - made.began
        self.metrics.decode_seconds.observe(took)
        info = ImageInfo(width=made.width, height=made.height, format=made.format)
        return Decoded(made.crops, info, made.began - asked, took)

    async def infer(self, served: Served, crops: Sequence[Pixels], outputs: tuple[str, ...]) -> Inferred:
        """May spread the crops over batches. Raises BatcherClosed, or what the session raised."""
        began = time.perf_counter()
        with span("inference"):
            answers = await asyncio.gather(*(served.batcher.submit(Job(c, outputs)) for c in crops))
        waited = min(answer.queued for answer in answers)
        took = time.perf_counter() - began - waited
        self.metrics.inference_seconds.observe(took)
        return Inferred([answer.result for answer in answers], waited, took)

    def count_image(self, waited: float) -> None:
        """One more is answered, after `waited` s for a thread and for its batch."""
        self.metrics.images.inc()
        self.metrics.queue_seconds.observe(waited)
