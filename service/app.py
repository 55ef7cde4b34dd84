"""The HTTP application: routes and what they stand on. A prediction is admitted or refused (429), then
its body is read, to the limit at most, then the engine answers.
"""

import asyncio
import math
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import asdict
from typing import Annotated, Any, Final

from fastapi import FastAPI, Header, Query, Request, Response

from service.body import announced_bytes, read_image
from service.edge import Edge
from service.engine import Engine
from service.errors import STATUSES, InvalidRequest, NotReady, install_handlers
from service.follow import follow
from service.keys import read_digests
from service.metrics import CONTENT_TYPE, Metrics
from service.page import page_routes
from service.schemas import Alive, Health, ModelInfo, PredictAnswer, Problem
from service.session import Model
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


def create_app(settings: Settings, model: Model, load: Callable[[], Model]) -> FastAPI:
    """Serves `model`, and after a reload what `load` returns. Raises SettingsError when the file of API
    keys cannot be used.
    """

    metrics = Metrics()

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        with ThreadPoolExecutor(settings.threads or usable_cores(), "decode") as decoders:
            app.state.engine = engine = Engine(settings, model, load, decoders, metrics)
            following = asyncio.create_task(follow(engine, settings.model, bool(settings.watch_model)))
            yield
            following.cancel()
            await engine.current.batcher.close()

    keys = settings.api_keys_file
    app = FastAPI(
        title="AlexNet",
        description=f"Image classification with {model.manifest.name}.",
        version=str(model.manifest.version),
        lifespan=lifespan,
        redirect_slashes=False,
        docs_url=None,  # page.py has it, with assets from here
        redoc_url=None,
        responses={"default": {"model": Problem, "description": "what went wrong, RFC 9457"}},
    )
    app.add_middleware(Edge, digests=read_digests(keys) if keys else (), metrics=metrics)
    install_handlers(app)
    app.include_router(page_routes(settings.max_body_bytes))

    def engine_of(request: Request) -> Engine:
        found: Engine = request.app.state.engine
        return found

    @app.post(
        "/predict",
        openapi_extra={"requestBody": _IMAGE_BODY},
        responses={status: {"model": Problem} for status, _code in STATUSES.values()},
    )
    async def predict(
        request: Request,
        response: Response,
        top_k: Annotated[int | None, Query(ge=1)] = None,
        x_request_timeout_ms: Annotated[float | None, Header(gt=0)] = None,
    ) -> PredictAnswer:
        """Classifies one image: the multipart field `file`, or the bare body."""
        here = engine_of(request)
        limit = min(settings.request_timeout_s, (x_request_timeout_ms or math.inf) / 1000)
        here.require_worker()
        classes = len(here.current.model.manifest.classes)
        if top_k is not None and top_k > classes:
            raise InvalidRequest(f"top_k is {top_k}; this model has {classes} classes")
        with here.admission.admit(announced_bytes(request, settings.max_body_bytes)):
            data = await read_image(request, settings.max_body_bytes, settings.body_timeout_s)
            answer = await here.predict(data, top_k or min(DEFAULT_TOP_K, classes), limit)
        stages = answer.timing_ms.model_dump().items()
        response.headers["Server-Timing"] = ", ".join(f"{stage};dur={ms}" for stage, ms in stages)
        return answer

    @app.get("/models")
    async def models(request: Request) -> list[ModelInfo]:
        """Every model served, with what its file says of it."""
        served = engine_of(request).current
        manifest = served.model.manifest
        return [
            ModelInfo(
                **served.name.model_dump(),
                classes=list(manifest.classes),
                metrics=[asdict(m) for m in manifest.metrics],
                card=served.model.card,
            )
        ]

    @app.get("/health", responses={503: {"model": Problem}})
    @app.get("/health/ready", responses={503: {"model": Problem}})
    async def health(request: Request) -> Health:
        """200 once a real forward pass has been made and while predictions can be answered."""
        here = engine_of(request)
        here.require_worker()
        if here.draining:
            raise NotReady("the server is stopping")
        return Health(
            status="ok",
            model=here.current.name,
            provider=here.current.model.provider,
            reload_error=here.reload_error,
        )

    @app.get("/metrics", response_class=Response, responses={200: {"content": {"text/plain": {}}}})
    async def prometheus() -> Response:
        """For Prometheus."""
        return Response(metrics.text(), media_type=CONTENT_TYPE)

    @app.get("/health/live")
    async def live() -> Alive:
        """200 while the process answers at all."""
        return Alive(status="ok")

    return app
