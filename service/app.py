"""The HTTP application: routes and what they stand on.

A request's way, which never turns back: admit or 429 -> read at most the limit -> a worker thread
decodes and crops -> queue -> the one thread that owns the session runs the batch -> top-k -> answer.
"""

import asyncio
import time
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass
from typing import Annotated, Any, Final

import numpy as np
from fastapi import FastAPI, Query, Request

from contract.preprocess import Pixels, centre_crop, decode_pixels, read_header
from service.admission import Admission, PixelBudget
from service.batcher import Batcher
from service.body import announced_bytes, read_image
from service.edge import Edge
from service.errors import STATUSES, DeadlineExceeded, InvalidRequest, NotReady, install_handlers
from service.keys import read_digests
from service.schemas import (
    Alive,
    Health,
    ImageInfo,
    ModelInfo,
    ModelName,
    PredictAnswer,
    Prediction,
    Problem,
    Timing,
)
from service.session import Model, Probabilities
from service.settings import Settings, usable_cores

DEFAULT_TOP_K: Final = 5
_IMAGE_BODY: Final[dict[str, Any]] = {
    "required": True,
    "content": {
        "multipart/form-data": {
            "schema": {
                "type": "object",
                "required": ["file"],
                "properties": {"file": {"type": "string", "format": "binary"}},
            }
        },
        "*/*": {"schema": {"type": "string", "format": "binary"}},
    },
}


@dataclass
class Engine:
    """What the routes share while the application runs."""

    settings: Settings
    model: Model
    batcher: Batcher[Pixels, Probabilities]
    decoders: ThreadPoolExecutor
    admission: Admission
    budget: PixelBudget
    draining: bool = False

    @property
    def name(self) -> ModelName:
        manifest = self.model.manifest
        return ModelName(name=manifest.name, version=manifest.version, sha256=self.model.sha256)

    def require_worker(self) -> None:
        if not self.batcher.alive:
            raise NotReady("the inference worker has ended; the server needs a restart")

    async def predict(self, data: bytes, top_k: int) -> PredictAnswer:
        """Raises ImageError, DeadlineExceeded, BatcherClosed, or what the session raised."""
        loop, limit = asyncio.get_running_loop(), self.settings.request_timeout_s
        started = time.perf_counter()
        try:
            async with asyncio.timeout(limit):
                decoded = await loop.run_in_executor(self.decoders, self._decode, data)
                answer = await self.batcher.submit(decoded.crop)
        except TimeoutError:
            raise DeadlineExceeded(f"no answer within {limit:g} s") from None
        return PredictAnswer(
            predictions=_best(answer.result, self.model.manifest.classes, top_k),
            model=self.name,
            image=decoded.info,
            timing_ms=Timing(
                decode=_ms(decoded.ended - decoded.began),
                queue=_ms(decoded.began - started + answer.queued),
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


def create_app(settings: Settings, model: Model) -> FastAPI:
    """Raises SettingsError when the file of API keys cannot be used."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        batcher: Batcher[Pixels, Probabilities] = Batcher(
            model.run, settings.max_batch, settings.max_wait_ms / 1000
        )
        with ThreadPoolExecutor(settings.threads or usable_cores(), "decode") as decoders:
            app.state.engine = Engine(
                settings,
                model,
                batcher,
                decoders,
                Admission(settings.max_queue, settings.max_queue_bytes),
                PixelBudget(settings.max_pixels),
            )
            yield
            await batcher.close()

    keys = settings.api_keys_file
    app = FastAPI(
        title="AlexNet",
        description=f"Image classification with {model.manifest.name}.",
        version=str(model.manifest.version),
        lifespan=lifespan,
        redirect_slashes=False,
        redoc_url=None,
        responses={"default": {"model": Problem, "description": "what went wrong, RFC 9457"}},
    )
    app.add_middleware(Edge, digests=read_digests(keys) if keys else ())
    install_handlers(app)

    def engine(request: Request) -> Engine:
        found: Engine = request.app.state.engine
        return found

    @app.post(
        "/predict",
        openapi_extra={"requestBody": _IMAGE_BODY},
        responses={status: {"model": Problem} for status, _code in STATUSES.values()},
    )
    async def predict(request: Request, top_k: Annotated[int | None, Query(ge=1)] = None) -> PredictAnswer:
        """Classifies one image: the multipart field `file`, or the bare body."""
        here = engine(request)
        here.require_worker()
        classes = len(model.manifest.classes)
        if top_k is not None and top_k > classes:
            raise InvalidRequest(f"top_k is {top_k}; this model has {classes} classes")
        with here.admission.admit(announced_bytes(request, settings.max_body_bytes)):
            data = await read_image(request, settings.max_body_bytes, settings.body_timeout_s)
            return await here.predict(data, top_k or min(DEFAULT_TOP_K, classes))

    @app.get("/models")
    async def models(request: Request) -> list[ModelInfo]:
        """Every model served, with what its file says of it."""
        return [
            ModelInfo(
                **engine(request).name.model_dump(),
                classes=list(model.manifest.classes),
                metrics=[asdict(m) for m in model.manifest.metrics],
                card=model.card,
            )
        ]

    @app.get("/health", responses={503: {"model": Problem}})
    @app.get("/health/ready", responses={503: {"model": Problem}})
    async def health(request: Request) -> Health:
        """200 once a real forward pass has been made and while predictions can be answered."""
        here = engine(request)
        here.require_worker()
        if here.draining:
            raise NotReady("the server is stopping")
        return Health(status="ok", model=here.name, provider=model.provider)

    @app.get("/health/live")
    async def live() -> Alive:
        """200 while the process answers at all."""
        return Alive(status="ok")

    return app


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
