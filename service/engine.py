"""A request's way once its body is there, which never turns back: a worker thread decodes and crops ->
queue -> the one thread that owns the session runs the batch -> top-k -> answer.
"""

import asyncio
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from contract.preprocess import Pixels, centre_crop, decode_pixels, read_header
from service.admission import Admission, PixelBudget
from service.batcher import Batcher
from service.errors import DeadlineExceeded, NotReady
from service.metrics import Metrics
from service.schemas import ImageInfo, ModelName, PredictAnswer, Prediction, Timing
from service.session import Model, Probabilities
from service.settings import Settings


@dataclass
class Engine:
    """What the routes share while the application runs; all of it on the event loop but `_decode` and
    `_run`.
    """

    settings: Settings
    model: Model
    decoders: ThreadPoolExecutor
    admission: Admission
    budget: PixelBudget
    metrics: Metrics
    draining: bool = False

    @property
    def name(self) -> ModelName:
        manifest = self.model.manifest
        return ModelName(name=manifest.name, version=manifest.version, sha256=self.model.sha256)

    def __post_init__(self) -> None:
        settings = self.settings
        self.batcher: Batcher[Pixels, Probabilities] = Batcher(
            self._run, settings.max_batch, settings.max_wait_ms / 1000
        )
        self.metrics.watch(
            ready=lambda: self.batcher.alive and not self.draining,
            inside=lambda: self.admission.inside,
            waiting=lambda: self.batcher.waiting,
        )
        name = self.name
        self.metrics.serving(name.name, name.version, name.sha256, self.model.provider)

    def require_worker(self) -> None:
        if not self.batcher.alive:
            raise NotReady("the inference worker has ended; the server needs a restart")

    async def predict(self, data: bytes, top_k: int, limit: float) -> PredictAnswer:
        """Within `limit` s. Raises ImageError, DeadlineExceeded, BatcherClosed, or what the session
        raised.
        """
        loop = asyncio.get_running_loop()
        started = time.perf_counter()
        try:
            async with asyncio.timeout(limit):
                decoded = await loop.run_in_executor(self.decoders, self._decode, data)
                answer = await self.batcher.submit(decoded.crop)
        except TimeoutError:
            raise DeadlineExceeded(f"no answer within {limit:g} s") from None
        decoding = decoded.ended - decoded.began
        waiting = decoded.began - started + answer.queued
        self.metrics.images.inc()
        for stage, seconds in (("decode", decoding), ("queue", waiting), ("inference", answer.ran)):
            self.metrics.stage_seconds.labels(stage).observe(seconds)
        return PredictAnswer(
            predictions=_best(answer.result, self.model.manifest.classes, top_k),
            model=self.name,
            image=decoded.info,
            timing_ms=Timing(
                decode=_ms(decoding),
                queue=_ms(waiting),
                inference=_ms(answer.ran),
                total=_ms(time.perf_counter() - started),
            ),
        )

    def _decode(self, data: bytes) -> "_Decoded":
        """In a worker thread; the times are of `time.perf_counter`."""
        began = time.perf_counter()
        recipe = self.model.manifest.recipe
        header = read_header(data, recipe, self.settings.max_pixels)
        with self.budget.reserve(header.pixels):
            picture = decode_pixels(header)
            crop = centre_crop(picture, recipe)
            info = ImageInfo(width=picture.width, height=picture.height, format=picture.format)
            del header, picture  # their memory is what the budget is for
        return _Decoded(crop, info, began, time.perf_counter())

    def _run(self, batch: list[Pixels]) -> list[Probabilities]:
        """In the thread of the batcher."""
        self.metrics.batch_images.observe(len(batch))
        return self.model.run(batch)


@dataclass(frozen=True)
class _Decoded:
    crop: Pixels
    info: ImageInfo
    began: float
    ended: float


def _best(probabilities: Probabilities, classes: tuple[str, ...], top_k: int) -> list[Prediction]:
    order = np.argsort(-probabilities, kind="stable")[:top_k]
    return [
        Prediction(label=classes[i], index=i, probability=float(probabilities[i])) for i in order.tolist()
    ]


def _ms(seconds: float) -> float:
    return round(seconds * 1000, 3)
