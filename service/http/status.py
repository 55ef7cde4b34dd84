"""Routes that describe the service: models, health, metrics, and conv1's kernels as a picture."""

import asyncio
from dataclasses import asdict
from typing import Annotated
from weakref import WeakKeyDictionary

from fastapi import APIRouter, Query, Request, Response

from alexnet_client.schemas import Alive, Health, ModelInfo, ModelState
from service.errors import UnknownModel
from service.http.error_responses import documented
from service.http.exposition import format_for
from service.http.query import refuse_unknown
from service.http.scope import engine_of
from service.models.filters import draw_kernels
from service.models.serving import ServingModel
from service.observability.metrics import Metrics


def status_routes(metrics: Metrics) -> APIRouter:
    """Make the routes of one application."""
    router = APIRouter()
    drawn: WeakKeyDictionary[ServingModel, asyncio.Task[bytes]] = WeakKeyDictionary()

    @router.get("/models", responses=documented(401))
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

    @router.get(
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

    @router.get("/health", responses=documented(503))
    @router.get("/health/ready", responses=documented(503))
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

    @router.get("/health/live")
    async def live() -> Alive:
        """200 while the process answers at all."""
        return Alive(status="ok")

    @router.get(
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

    return router
