"""The HTTP application: wires the rooms together, and the routes that describe what is served."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import asdict
from functools import cache
from typing import Annotated
from weakref import WeakKeyDictionary

from fastapi import FastAPI, Query, Request, Response
from starlette.middleware.cors import CORSMiddleware

from alexnet_client.schemas import Alive, Health, ModelInfo, ModelState
from service import routes, v2
from service.clients import Clients, networks
from service.edge import Edge
from service.engine import Engine, engine_of, scheduling
from service.errors import UnknownModel, documented, install_handlers
from service.exposition import format_for
from service.filters import draw_kernels
from service.follow import follow
from service.hosts import Hosts
from service.keys import Keys
from service.metrics import Metrics
from service.model_loading import Found, Load
from service.origins import EXPOSED, read_origins
from service.page import page_routes
from service.query import refuse_unknown
from service.repository import Repository
from service.served import Served
from service.settings import Settings
from service.traces import trace_requests


def create_app(settings: Settings, found: list[Found], load: Load, threads: int) -> FastAPI:
    """Serves the models `found`, a list that it empties, and after a reload what `load` reads; decodes in
    so many `threads`. Raises SettingsError when a file of keys cannot be used.
    """
    metrics, keys = Metrics(), Keys(settings)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with scheduling(settings, found, threads, metrics, settings.request_timeout_s) as scheduler:
            repository = Repository(settings, found, load, metrics)
            found.clear()  # it would keep in memory what is replaced later
            app.state.engine = engine = Engine(settings, repository, scheduler, metrics)
            engine.reload_wanted = app.state.reload_wanted
            following = asyncio.create_task(follow(engine, keys, bool(settings.watch_model)))
            yield
            following.cancel()

    app = FastAPI(
        title="AlexNet",
        description="Image classification: which class a photograph shows, what it resembles, and why.",
        lifespan=lifespan,
        redirect_slashes=False,
        openapi_url=None,  # below, made once
        servers=[{"url": "."}],  # where the description is: a proxy may have taken a prefix off the path
        docs_url=None,  # page.py has it, with assets from here
        redoc_url=None,
        telemetry={"tracing": False, "metrics": False, "logs": False},  # traces.py and metrics.py are ours
    )
    app.state.settings, app.state.keys = settings, keys
    app.state.reload_wanted = False
    clients = Clients(networks(settings.trusted_proxies))
    app.add_middleware(Edge, hosts=Hosts(settings), keys=keys, metrics=metrics, clients=clients)
    trace_requests(app)
    if settings.cors_origins:  # around the edge: a browser asks beforehand without a key
        app.add_middleware(
            CORSMiddleware,
            allow_origins=read_origins(settings.cors_origins),
            allow_methods=["*"],
            allow_headers=["*"],
            expose_headers=EXPOSED,
        )
    install_handlers(app)
    app.include_router(routes.router)  # first, because routes are tried in this order
    app.include_router(v2.router)
    app.include_router(page_routes(settings.max_body_bytes))

    drawn: WeakKeyDictionary[Served, asyncio.Task[bytes]] = WeakKeyDictionary()

    @app.get("/openapi.json", include_in_schema=False)
    async def description() -> Response:
        return Response(described(), media_type="application/json")

    @cache
    def described() -> bytes:
        return json.dumps(app.openapi(), separators=(",", ":")).encode()

    @app.get("/models", responses=documented(401))
    async def models(request: Request) -> list[ModelInfo]:
        """Every model that is served, the default one first, with what its file says of it."""
        return [
            ModelInfo(
                **served.name.model_dump(),
                classes=list(served.model.manifest.classes),
                metrics=[asdict(m) for m in served.model.manifest.metrics],
                card=served.model.card,
            )
            for served in engine_of(request.scope).repository.served
        ]

    @app.get(
        "/models/{name}/filters.png",
        response_class=Response,
        responses={200: {"content": {"image/png": {}}}, **documented(401, 404, 422, 503)},
    )
    async def filters(
        request: Request, name: str, version: Annotated[int | None, Query(ge=1)] = None
    ) -> Response:
        """The kernels of conv1, the paper's Figure 3."""
        refuse_unknown(request, ["version"])
        served = engine_of(request.scope).repository.find(name, version)
        kernels = served.model.kernels
        if kernels is None:
            raise UnknownModel(f"model {name} has no layer conv1")
        if served not in drawn:
            drawn[served] = asyncio.create_task(asyncio.to_thread(draw_kernels, kernels))
        return Response(await asyncio.shield(drawn[served]), media_type="image/png")

    @app.get("/health", responses=documented(503))
    @app.get("/health/ready", responses=documented(503))
    async def health(request: Request) -> Health:
        """200 once a real forward pass has been made and while predictions can be answered."""
        engine = engine_of(request.scope)
        engine.require_ready()
        first = next(engine.repository.served)
        sources = engine.repository.sources
        return Health(
            status="ok",
            model=first.name,
            provider=first.model.provider,
            models=[
                ModelState(name=s.name, version=s.version, state=s.state, error=s.error) for s in sources
            ],
            reload_error=next((s.error for s in sources if s.error), None),
        )

    @app.get(
        "/metrics",
        response_class=Response,
        responses={
            200: {"content": {"text/plain": {}, "application/openmetrics-text": {}}},
            **documented(401),
        },
    )
    async def prometheus(request: Request) -> Response:
        """For Prometheus, in the format that Accept asks for."""
        encode, kind = format_for(request.headers.get("accept", ""))
        headers = {"Content-Type": kind, "Vary": "Accept"}
        return Response(await metrics.text(encode), headers=headers)

    @app.get("/health/live")
    async def live() -> Alive:
        """200 while the process answers at all."""
        return Alive(status="ok")

    return app
