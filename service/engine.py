"""A request's way once its body is there, which never turns back: a worker thread decodes and crops ->
queue -> a thread of the session's runs the batch -> top-k -> answer.
"""

import asyncio
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Executor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from contract.picture import decode_pixels, read_header
from contract.preprocess import Pixels, centre_crop
from contract.recipe import Recipe
from service.admission import Admission, PixelBudget
from service.batcher import Batcher
from service.errors import DeadlineExceeded, NotReady
from service.logs import log
from service.metrics import Metrics
from service.schemas import ImageInfo, ModelName, PredictAnswer, Prediction, Timing
from service.session import Model, ModelError, Row
from service.settings import Settings


class Served:
    """A model and the thread that runs it, kept until its last request is answered."""

    def __init__(self, model: Model, settings: Settings, metrics: Metrics) -> None:
        self.model = model
        self._metrics = metrics
        self._users = 0
        self._unused = asyncio.Event()
        self._unused.set()
        self.batcher: Batcher[Pixels, Row] = Batcher(
            self._run, settings.max_batch, settings.max_wait_ms / 1000, model.lanes
        )

    @property
    def name(self) -> ModelName:
        manifest = self.model.manifest
        return ModelName(name=manifest.name, version=manifest.version, sha256=self.model.sha256)

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

    def _run(self, batch: list[Pixels]) -> list[Row]:
        """In a thread of the batcher."""
        self._metrics.batch_images.observe(len(batch))
        return self.model.run(batch)


class Engine:
    """What the routes share while the application runs, on the event loop. `load` reads the model file
    again. `reload_wanted` is set by SIGHUP; `failed` says that no batch will ever be run again.
    """

    def __init__(
        self,
        settings: Settings,
        model: Model,
        load: Callable[[], Model],
        decoders: Executor,
        metrics: Metrics,
    ) -> None:
        self._settings = settings
        self._load = load
        self._decoders = decoders
        self._metrics = metrics
        self._budget = PixelBudget(settings.max_pixels)
        self.admission = Admission(settings.max_queue, settings.max_queue_bytes)
        self.current = Served(model, settings, metrics)
        self._retiring: set[asyncio.Task[None]] = set()
        self.draining = False
        self.failed = False
        self.reload_wanted = False
        self.reload_error: str | None = None
        metrics.watch(
            ready=lambda: self.current.batcher.alive and not self.draining,
            inside=lambda: self.admission.inside,
            limit=settings.max_queue,
            waiting=lambda: self.current.batcher.waiting,
        )
        self._report_model()

    def require_worker(self) -> None:
        if not self.current.batcher.alive:
            raise NotReady("the inference worker has ended; the server needs a restart")

    async def reload(self) -> None:
        """Loads the file beside the model that is served and swaps them between batches; a request stays
        with the one that it began with. A file that cannot be used changes nothing.
        """
        try:
            model = await asyncio.to_thread(self._load)
        except ModelError as error:
            self.reload_error = str(error)
            log.error("the model file is not served, the one before it is: %s", error)
            return
        except Exception:  # our own bug, or no memory: the old model goes on serving all the same
            self.reload_error = "the model file cannot be loaded; the log says why"
            log.exception("the model file is not served, the one before it is")
            return
        old, self.current = self.current, Served(model, self._settings, self._metrics)
        self.reload_error = None
        self._report_model()
        retiring = asyncio.create_task(old.retire())
        self._retiring.add(retiring)  # the loop itself holds tasks weakly
        retiring.add_done_callback(self._retiring.discard)

    def _report_model(self) -> None:
        name = self.current.name
        self._metrics.serving(name.name, name.version, name.sha256, self.current.model.provider)

    @property
    def stuck(self) -> bool:
        """No batch runs any more, or one has run for longer than any request may take."""
        batcher = self.current.batcher
        return not batcher.alive or batcher.running_for > self._settings.request_timeout_s

    async def predict(self, data: bytes, top_k: int, limit: float) -> PredictAnswer:
        """Within `limit` s. Raises ImageError, DeadlineExceeded, BatcherClosed, or what the session
        raised.
        """
        loop = asyncio.get_running_loop()
        started = time.perf_counter()
        with self.current.use() as served:
            recipe = served.model.manifest.recipe
            try:
                async with asyncio.timeout(limit):
                    decoded = await loop.run_in_executor(self._decoders, self._decode, data, recipe)
                    answer = await served.batcher.submit(decoded.crop)
            except TimeoutError:
                raise DeadlineExceeded(f"no answer within {limit:g} s") from None
        decoding = decoded.ended - decoded.began
        waiting = decoded.began - started + answer.queued
        self._metrics.images.inc()
        for stage, seconds in (("decode", decoding), ("queue", waiting), ("inference", answer.ran)):
            self._metrics.stage_seconds.labels(stage).observe(seconds)
        return PredictAnswer(
            predictions=_best(answer.result["probabilities"], served.model.manifest.classes, top_k),
            model=served.name,
            image=decoded.info,
            timing_ms=Timing(
                decode=_ms(decoding),
                queue=_ms(waiting),
                inference=_ms(answer.ran),
                total=_ms(time.perf_counter() - started),
            ),
        )

    def _decode(self, data: bytes, recipe: Recipe) -> "_Decoded":
        """In a worker thread; the times are of `time.perf_counter`."""
        began = time.perf_counter()
        header = read_header(data, recipe, self._settings.max_pixels)
        with self._budget.reserve(header.pixels):
            picture = decode_pixels(header)
            crop = centre_crop(picture, recipe)
            info = ImageInfo(width=picture.width, height=picture.height, format=picture.format)
            del header, picture  # their memory is what the budget is for
        return _Decoded(crop, info, began, time.perf_counter())


@dataclass(frozen=True)
class _Decoded:
    crop: Pixels
    info: ImageInfo
    began: float
    ended: float


def _best(probabilities: NDArray[np.float32], classes: tuple[str, ...], top_k: int) -> list[Prediction]:
    order = np.argsort(-probabilities, kind="stable")[:top_k]
    return [
        Prediction(label=classes[i], index=i, probability=float(probabilities[i])) for i in order.tolist()
    ]


def _ms(seconds: float) -> float:
    return round(seconds * 1000, 3)
