"""The engine that routes and the command line call: models, scheduler, admission, readiness."""

import math
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from alexnet_client.schemas import ImageInfo
from contract.preprocess import Pixels
from service.device_crops import Crops
from service.errors import NotReady
from service.imaging.decoder import Decoder
from service.imaging.gpu_decoder import MAX_TOGETHER, GpuDecoder
from service.inference.admission import Admission
from service.inference.batches import BatchResult
from service.inference.decoders import open_decoder
from service.inference.scheduler import Scheduler
from service.models.cuda import PROVIDER
from service.models.cuda_session import GPU_WORKERS
from service.models.repository import Repository
from service.models.serving import ServingModel
from service.models.session import Model, Outputs
from service.observability.metrics import Metrics
from service.observability.traces import add_span
from service.settings import Settings


@dataclass(frozen=True)
class InferenceResult:
    """The outputs, each an array with a row per crop, and the seconds that they took.

    `waited` is until the first batch with one of the crops began, `took` from then to the end of the last.
    """

    outputs: Outputs
    waited: float
    took: float


@dataclass(frozen=True)
class DecodedCrops:
    """The crops (N, 224, 224, 3) uint8 of an image; it `waited` for a thread and `took` seconds in it."""

    crops: Crops
    info: ImageInfo
    waited: float
    took: float


class Engine:
    """Run inference for the event loop, and know whether requests can be answered.

    `draining` means that the server is stopping, `failed` that this process will never run a batch again.
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
        metrics.watch(self._gauges)

    def _gauges(self) -> dict[str, float]:
        return {
            "ready": self.ready,
            "in_flight_images": self.admission.in_flight,
            "in_flight_images_limit": self._settings.max_queue,
            "queue_images": self.scheduler.waiting,
            "gpu_memory_bytes": next(
                (used for s in self.repository.served if (used := s.model.gpu_memory_used)), 0
            ),
        }

    @property
    def alive(self) -> bool:
        """Whether a model is served and batches are run."""
        return self.scheduler.alive and any(self.repository.served)

    @property
    def ready(self) -> bool:
        return self.alive and self.scheduler.decodes and not self.draining

    def require_ready(self) -> None:
        """Raise NotReady if images should go to another server; this one may still answer them."""
        self.require_worker()
        if not self.scheduler.decodes:
            raise NotReady(
                "nothing is decoded: images that take longer than DECODE_TIMEOUT_MS block every thread"
            )
        if self.draining:
            raise NotReady("the server is stopping")

    def require_worker(self) -> None:
        """Raise NotReady if no image can be answered. A server that is stopping still answers."""
        if not any(self.repository.served):
            raise NotReady("no model is loaded")
        if not self.alive:
            raise NotReady("the inference worker has ended; the server needs a restart")

    @property
    def stuck(self) -> bool:
        """Whether decoding or inference has hung for longer than any request may take."""
        return not self.scheduler.alive or self.scheduler.stuck_for > self._settings.request_timeout_s

    async def infer_image(
        self, served: ServingModel, data: bytes, outputs: tuple[str, ...], crops: int
    ) -> tuple[DecodedCrops, InferenceResult]:
        """Decode an image file and infer its central crop, or ten.

        Raises ImageError, Overloaded, SchedulerClosed, or what the session raised.
        """
        submitted = time.perf_counter()
        result = await self.scheduler.infer_image(served.model, data, crops, outputs)
        image = result.decoded
        assert image is not None
        self.metrics.decode_seconds.observe(image.ended - image.began)
        add_span("decode", image.began, image.ended)
        info = ImageInfo(
            width=image.width,
            height=image.height,
            format=image.format,
            profile_ignored=image.profile_ignored,
            preprocessing=image.preprocessing,
        )
        decoded = DecodedCrops(image.crops, info, image.began - submitted, image.ended - image.began)
        return decoded, self._record(result, image.ended)

    async def infer(self, served: ServingModel, crops: Pixels, outputs: tuple[str, ...]) -> InferenceResult:
        """Infer crops (N, 224, 224, 3) uint8, in one batch or several.

        Raises SchedulerClosed, or what the session raised.
        """
        submitted = time.perf_counter()
        return self._record(await self.scheduler.infer_crops(served.model, crops, outputs), submitted)

    def _record(self, result: BatchResult, ready: float) -> InferenceResult:
        """Observe in metrics and traces how long crops took that waited for a batch since `ready`."""
        took = result.ended - result.began
        self.metrics.inference_seconds.observe(took)
        add_span("inference", result.began, result.ended)
        return InferenceResult(result.outputs, result.began - ready, took)

    def count_image(self, waited: float) -> None:
        """Count an answered image that `waited` s for a thread and for its batch."""
        self.metrics.images.inc()
        self.metrics.queue_seconds.observe(waited)

    def count_unfamiliarity(self, value: float, known: bool) -> None:
        """Count how unfamiliar an answered image is, and whether it is unknown."""
        self.metrics.unfamiliarity.observe(value)
        if not known:
            self.metrics.unknown_images.inc()


@asynccontextmanager
async def running_engine(
    settings: Settings,
    repository: Repository,
    threads: int,
    metrics: Metrics,
    max_wait: float = math.inf,
    decoder: Decoder | None = None,
) -> AsyncIterator[Engine]:
    """Start `threads` threads that decode and infer; stop them at the end.

    Without a `decoder` it is that of the settings. Raises OSError, SettingsError and ModelError.
    """
    processes, timeout = settings.decode_processes, settings.decode_timeout_ms / 1000
    if decoder is None:
        decoder = open_decoder(settings, next(repository.served).model.provider, threads)

    def run(model: Model, parts: list[Crops], outputs: tuple[str, ...], exclusive: bool) -> Outputs:
        metrics.batch_images.observe(sum(map(len, parts)))
        return model.run(parts, outputs, exclusive)

    runners = threads if processes else 0
    if any(served.model.provider == PROVIDER for served in repository.served):
        runners = GPU_WORKERS
    scheduler = Scheduler(
        decoder,
        run,
        threads=MAX_TOGETHER if isinstance(decoder, GpuDecoder) else processes or threads,
        slow=max(1, processes - 1) if processes else threads,
        runners=runners,
        max_batch=settings.max_batch,
        fill_wait=settings.max_wait_ms / 1000,
        timeout=0.0 if processes else timeout,
        max_wait=max_wait,
        pin_cores=settings.pin_cores,
    )
    scheduler.start()
    try:
        yield Engine(settings, repository, scheduler, metrics)
    finally:
        await scheduler.close()
