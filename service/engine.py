"""A request's way once its body is there, which never turns back: a worker thread decodes and crops, and
runs the batch; or -> queue -> a thread of the session's runs it.
"""

import asyncio
import time
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass

from starlette.types import Scope

from alexnet_client.schemas import ImageInfo
from contract.preprocess import Pixels
from contract.recipe import Recipe
from service.admission import Admission
from service.decoding import Decoder
from service.errors import NotReady
from service.metrics import Metrics
from service.repository import Repository
from service.served import Here, Job, Served
from service.session import Row, gpu_memory_used
from service.settings import Settings
from service.traces import TRACED, span


def engine_of(scope: Scope) -> "Engine":
    """Of a request to an application that has started."""
    found: Engine = scope["app"].state.engine
    return found


@dataclass(frozen=True)
class Inferred:
    """What the outputs say of each crop; `waited` until the first batch with one of them began, `took`
    from then to the end of the last, seconds.
    """

    rows: list[Row]
    waited: float
    took: float


@dataclass(frozen=True)
class Decoded:
    """The crops (224, 224, 3) uint8 of an image; `waited` for a thread and `took` in it, seconds; and what
    the same thread has `inferred`, if it has.
    """

    crops: list[Pixels]
    info: ImageInfo
    waited: float
    took: float
    inferred: Inferred | None


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
            "queue_images": self._decoder.waiting
            + sum(served.batcher.waiting for served in self.repository.served),
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
        """
        recipe = served.model.manifest.recipe
        here = served.here(outputs, self.admission.inside) if crops == 1 and not TRACED else None
        with nullcontext() if here else served.batcher.expecting(crops):
            decoded = await self._decode(data, recipe, crops, here)
        return decoded, decoded.inferred or await self.infer(served, decoded.crops, outputs)

    async def _decode(self, data: bytes, recipe: Recipe, crops: int, here: Here | None = None) -> Decoded:
        """The bytes of an image file -> its central crop, or ten. Raises ImageError."""
        asked, inferred = time.perf_counter(), None
        with span("decode"):
            made = await self._decoder.decode(data, recipe, crops, here)
        took = made.ended - made.began
        self.metrics.decode_seconds.observe(took)
        if made.answer is not None:
            inferred = Inferred([made.answer.result], made.answer.queued, made.answer.ran)
            self.metrics.inference_seconds.observe(inferred.took)
        info = ImageInfo(
            width=made.width,
            height=made.height,
            format=made.format,
            profile_ignored=made.profile_ignored,
        )
        return Decoded(made.crops, info, made.began - asked, took, inferred)

    async def infer(self, served: Served, crops: Sequence[Pixels], outputs: tuple[str, ...]) -> Inferred:
        """May spread the crops over batches. Raises BatcherClosed, or what the session raised."""
        began = time.perf_counter()
        alone = len(crops) == self.admission.inside <= self._settings.max_batch
        with span("inference"):
            answers = await asyncio.gather(*(served.batcher.submit(Job(c, outputs, alone)) for c in crops))
        waited = min(answer.queued for answer in answers)
        took = time.perf_counter() - began - waited
        self.metrics.inference_seconds.observe(took)
        return Inferred([answer.result for answer in answers], waited, took)

    def count_image(self, waited: float) -> None:
        """One more is answered, after `waited` s for a thread and for its batch."""
        self.metrics.images.inc()
        self.metrics.queue_seconds.observe(waited)
