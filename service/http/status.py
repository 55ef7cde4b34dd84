"""Routes that describe the service: models, their conv1 kernels as a PNG, health and metrics."""

import asyncio
from dataclasses import asdict
from typing import Annotated
from weakref import WeakKeyDictionary

from fastapi import APIRouter, Query, Request, Response

from alexnet_client.schemas import Alive, Health, ModelInfo, ModelState
from service.errors import UnknownModel
from service.http.error_responses import document_problems
from service.http.exposition import format_for
from service.http.query import refuse_unknown
from service.http.scope import engine_of
from service.models.filters import draw_kernels
from service.models.serving import ServingModel
from service.observability.metrics import Metrics


def status_routes(metrics: Metrics) -> APIRouter:
    """Create the routes of one application."""
    router = APIRouter()
    drawings: WeakKeyDictionary[ServingModel, asyncio.Task[bytes]] = WeakKeyDictionary()

    @router.get("/models", responses=document_problems(401))
    async def models(request: Request) -> list[ModelInfo]:
        """List the served models, the default one first: classes, accuracies and `trust` of their files."""
        return [
            ModelInfo(
                **served.name.model_dump(),
                classes=list(served.model.manifest.classes),
                metrics=[asdict(metric) for metric in served.model.manifest.metrics],
                card=served.model.card,
                trust=None if (trust := served.model.manifest.trust) is None else trust.record(),
            )
            for served in engine_of(request.scope).repository.served
        ]

    @router.get(
        "/models/{name}/filters.png",
        response_class=Response,
        responses={200: {"content": {"image/png": {}}}, **document_problems(401, 404, 422, 503)},
    )
    async def filters(
        request: Request, name: str, version: Annotated[int | None, Query(ge=1)] = None
    ) -> Response:
        """Draw the kernels of conv1, as in the paper's Figure 3."""
        refuse_unknown(request, ["version"])
        served = engine_of(request.scope).repository.find(name, version)
        kernels = served.model.kernels
        if kernels is None:
            raise UnknownModel(f"model {name} has no layer conv1")
        if served not in drawings:
            drawings[served] = asyncio.create_task(asyncio.to_thread(draw_kernels, kernels))
        return Response(await asyncio.shield(drawings[served]), media_type="image/png")

    @router.get("/health", responses=document_problems(503))
    @router.get("/health/ready", responses=document_problems(503))
    async def health(request: Request) -> Health:
        """Answer 200 after a first forward pass, and while predictions can be answered."""
        engine = engine_of(request.scope)
        engine.require_ready()
        default = next(engine.repository.served)
        sources = engine.repository.registrations
        return Health(
            status="ok",
            model=default.name,
            provider=default.model.provider,
            models=[
                ModelState(name=s.name, version=s.version, state=s.state, error=s.error) for s in sources
            ],
            reload_error=next((s.error for s in sources if s.error), None),
        )

    @router.get("/health/live")
    async def live() -> Alive:
        """Answer 200 while the process can answer at all."""
        return Alive(status="ok")

    @router.get(
        "/metrics",
        response_class=Response,
        responses={
            200: {"content": {"text/plain": {}, "application/openmetrics-text": {}}},
            **document_problems(401),
        },
    )
    async def prometheus(request: Request) -> Response:
        """Report metrics to Prometheus, in the format that Accept asks for."""
        encode, content_type = format_for(request.headers.get("accept", ""))
        headers = {"Content-Type": content_type, "Vary": "Accept"}
        return Response(await metrics.text(encode), headers=headers)

    return router
