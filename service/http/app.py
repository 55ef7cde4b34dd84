"""Create the HTTP application: middleware, routes and OpenAPI description around one engine."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import cache

from fastapi import FastAPI, Response
from starlette.middleware.cors import CORSMiddleware

from service.http import images
from service.http.access.clients import Clients
from service.http.access.hosts import Hosts
from service.http.access.keys import Keys
from service.http.access.origins import EXPOSED
from service.http.error_responses import install_handlers
from service.http.middleware import RequestMiddleware
from service.http.page import page_routes
from service.http.status import status_routes
from service.http.v2 import routes as v2
from service.imaging.decoder import Decoder
from service.inference.engine import running_engine
from service.inference.watchdog import watch
from service.models.repository import Repository
from service.observability.metrics import Metrics
from service.observability.traces import tracing_middleware
from service.parsers import parse_networks, parse_origins
from service.settings import Settings


def create_app(
    settings: Settings,
    repository: Repository,
    metrics: Metrics,
    threads: int,
    decoder: Decoder | None = None,
) -> FastAPI:
    """Create the application that serves the models of `repository` with `threads` worker threads.

    Without a `decoder` it is that of the settings. While it runs, `app.state.engine` is its engine. Setting
    the event `app.state.reload` makes it read the models and the API keys again. Raises SettingsError if an
    API key file or a tracing setting is unusable.
    """
    keys, reload = Keys(settings), asyncio.Event()

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        timeout = settings.request_timeout_s
        async with running_engine(settings, repository, threads, metrics, timeout, decoder) as engine:
            app.state.engine = engine
            watching = asyncio.create_task(watch(engine, reload, keys.reload, settings.watch_model))
            yield
            watching.cancel()

    app = FastAPI(
        title="AlexNet",
        description="Image classification: which class a photograph shows, what it resembles, and why.",
        lifespan=lifespan,
        redirect_slashes=False,
        openapi_url=None,  # served below, rendered once
        servers=[{"url": "."}],  # relative to /openapi.json: a proxy may have stripped a path prefix
        docs_url=None,  # page.py serves it, with assets from this server instead of a CDN
        redoc_url=None,
        telemetry={"tracing": False, "metrics": False, "logs": False},  # service/observability has its own
    )
    app.state.settings, app.state.keys, app.state.reload = settings, keys, reload
    clients = Clients(parse_networks(settings.trusted_proxies))
    app.add_middleware(
        RequestMiddleware, hosts=Hosts(settings), keys=keys, metrics=metrics, clients=clients
    )
    if tracing := tracing_middleware():
        middleware, options = tracing
        app.add_middleware(middleware, **options)
    if settings.cors_origins:  # outermost: browsers send preflight requests without an API key
        app.add_middleware(
            CORSMiddleware,
            allow_origins=parse_origins(settings.cors_origins),
            allow_methods=["*"],
            allow_headers=["*"],
            expose_headers=EXPOSED,
        )
    install_handlers(app)
    app.include_router(images.router)  # the busiest routes first: they are matched in this order
    app.include_router(v2.router)
    app.include_router(page_routes(settings.max_body_bytes))
    app.include_router(status_routes(metrics))

    @app.get("/openapi.json", include_in_schema=False)
    async def description() -> Response:
        return Response(openapi_json(), media_type="application/json")

    @cache
    def openapi_json() -> bytes:
        return json.dumps(app.openapi(), separators=(",", ":")).encode()

    return app
