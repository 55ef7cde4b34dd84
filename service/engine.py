"""What the routes share while the application runs."""

import math
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

from starlette.types import Scope

from alexnet_client.schemas import ImageInfo
from contract.preprocess import Pixels
from service.admission import Admission
from service.batches import Answer
from service.cuda import LANES, PROVIDER
from service.decode_processes import Processes
from service.decoding import Decoder, InThread
from service.errors import NotReady
from service.metrics import Metrics
from service.model_loading import Found
from service.repository import Repository
from service.scheduler import Scheduler
from service.served import Served
from service.session import Model, Row, gpu_memory_used
from service.settings import Settings
from service.traces import add_span


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
    """The crops (224, 224, 3) uint8 of an image; `waited` for a thread and `took` in it, seconds."""

    crops: list[Pixels]
    info: ImageInfo
    waited: float
    took: float


class Engine:
    """What the routes share while the application runs, on the event loop. `draining` says that the
    server is stopping, `failed` that no batch will ever be run again; `reload_wanted` is set by SIGHUP.
    """

    def __init__(
        self, settings: Settings, repository: Repository, scheduler: Scheduler, metrics: Metrics
    ) -> None:
        self._settings = settings
        self.scheduler = scheduler
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
            "queue_images": self.scheduler.waiting,
            "gpu_memory_bytes": gpu_memory_used(s.model.provider for s in self.repository.served),
        }

    @property
    def alive(self) -> bool:
        """A model is served, and batches are run."""
        return self.scheduler.alive and any(self.repository.served)

    @property
    def ready(self) -> bool:
        return self.alive and self.scheduler.decodes and not self.draining

    def require_ready(self) -> None:
        """Raises NotReady where an image would be better off elsewhere; here it may still be answered."""
        self.require_worker()
        if not self.scheduler.decodes:
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
        return not self.scheduler.alive or self.scheduler.stuck_for > self._settings.request_timeout_s

    async def look(
        self, served: Served, data: bytes, outputs: tuple[str, ...], crops: int
    ) -> tuple[Decoded, Inferred]:
        """The bytes of an image file -> its central crop, or ten, and what the outputs say of each. Raises
        ImageError, Overloaded, SchedulerClosed, or what the session raised.
        """
        asked = time.perf_counter()
        answer = await self.scheduler.infer_image(served.model, data, crops, outputs)
        made = answer.decoded
        assert made is not None
        self.metrics.decode_seconds.observe(made.ended - made.began)
        add_span("decode", made.began, made.ended)
        info = ImageInfo(
            width=made.width,
            height=made.height,
            format=made.format,
            profile_ignored=made.profile_ignored,
        )
        decoded = Decoded(made.crops, info, made.began - asked, made.ended - made.began)
        return decoded, self._inferred(answer, made.ended)

    async def infer(self, served: Served, crops: Sequence[Pixels], outputs: tuple[str, ...]) -> Inferred:
        """May spread the crops over batches. Raises SchedulerClosed, or what the session raised."""
        asked = time.perf_counter()
        return self._inferred(await self.scheduler.infer_crops(served.model, crops, outputs), asked)

    def _inferred(self, answer: Answer, ready: float) -> Inferred:
        took = answer.ended - answer.began
        self.metrics.inference_seconds.observe(took)
        add_span("inference", answer.began, answer.ended)
        return Inferred(answer.rows, answer.began - ready, took)

    def count_image(self, waited: float) -> None:
        """One more is answered, after `waited` s for a thread and for its batch."""
        self.metrics.images.inc()
        self.metrics.queue_seconds.observe(waited)


@asynccontextmanager
async def scheduling(
    settings: Settings, found: Sequence[Found], threads: int, metrics: Metrics, max_wait: float = math.inf
) -> AsyncIterator[Scheduler]:
    """A scheduler for the models `found`, in so many threads. Raises OSError."""
    processes, timeout = settings.decode_processes, settings.decode_timeout_ms / 1000
    decoder: Decoder = InThread(settings.max_pixels)
    if processes:  # killed when an image takes too long; and what breaks one breaks no other
        decoder = Processes(processes, settings.max_pixels, timeout)

    def run(model: Model, batch: list[Pixels], outputs: tuple[str, ...], alone: bool) -> list[Row]:
        metrics.batch_images.observe(len(batch))
        return model.run(batch, outputs, alone)

    runners = threads if processes else 0
    if any(one.model and one.model.provider == PROVIDER for one in found):
        runners = LANES
    scheduler = Scheduler(
        decoder,
        run,
        threads=processes or threads,
        slow=max(1, processes - 1) if processes else threads,
        runners=runners,
        max_batch=settings.max_batch,
        hold=settings.max_wait_ms / 1000,
        timeout=0.0 if processes else timeout,
        max_wait=max_wait,
    )
    scheduler.start()
    try:
        yield scheduler
    finally:
        await scheduler.close()
