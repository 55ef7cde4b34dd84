"""Routes of the Open Inference Protocol v2, with Triton's model repository extension.

The infer routes, with the binary tensor and classification extensions, are in `service.http.v2.infer`.
"""

from typing import Any, Final

from fastapi import APIRouter, Depends, Request, Response

from contract.manifest import Tensor
from service.errors import InvalidRequest
from service.http.body.compression import IDENTITY, coding_of, inflate
from service.http.body.json_fields import abbreviate, flag, parameters_of, read_json
from service.http.body.read import read_body
from service.http.error_responses import protocol_status
from service.http.scope import KEY, engine_of
from service.http.v2 import infer as v2_infer
from service.http.v2.infer import parse_version
from service.http.v2.request import DATATYPES
from service.http.v2.schemas import (
    INDEX_COMMAND,
    MODEL_COMMAND,
    IndexEntry,
    Live,
    ModelMetadata,
    ModelReady,
    ProtocolError,
    Ready,
    ServerMetadata,
    TensorMetadata,
)
from service.models.serving import ServingModel
from service.problems import STATUSES

EXTENSIONS: Final = ["binary_tensor_data", "classification", "model_repository"]
VERSION: Final = "0.1.0"
MAX_COMMAND_BYTES: Final = 100_000  # maximum body of a repository request
_ERROR: Final[dict[str, Any]] = {"model": ProtocolError}
_ERRORS: Final[dict[int | str, dict[str, Any]]] = {
    **{protocol_status(status): _ERROR for status, _code in STATUSES.values() if status != 403},
    "default": _ERROR,
}
router = APIRouter(prefix="/v2", responses=_ERRORS, tags=["Open Inference Protocol"])
router.include_router(v2_infer.router)


async def _require_admin(request: Request) -> None:
    """Raise Forbidden without an admin key, and InvalidRequest with several worker processes."""
    request.app.state.keys.require_admin(request.scope[KEY])
    workers = request.app.state.settings.workers
    if workers > 1:
        raise InvalidRequest(
            f"this would reach only one of {workers} workers; put the file into MODELS and send SIGHUP, "
            "which reaches all of them"
        )


_ADMIN: Final[dict[str, Any]] = {
    "response_class": Response,
    "dependencies": [Depends(_require_admin)],
    "openapi_extra": MODEL_COMMAND,
    "responses": {403: _ERROR},
}


@router.get("")
async def server() -> ServerMetadata:
    """Describe the server: its name, its version and the protocol extensions that it supports."""
    return ServerMetadata(name="alexnet", version=VERSION, extensions=EXTENSIONS)


@router.get("/health/live")
async def live() -> Live:
    """Answer 200 while the process can answer at all."""
    return Live(live=True)


@router.get("/health/ready")
async def ready(request: Request) -> Ready:
    """Answer 200 while predictions can be answered."""
    engine_of(request.scope).require_ready()
    return Ready(ready=True)


@router.get("/models/{name}")
@router.get("/models/{name}/versions/{version}")
async def model(request: Request, name: str, version: str | None = None) -> ModelMetadata:
    """Describe a model's inputs and outputs. `encoded` may be sent in place of `images`."""
    served = _served(request, name, version)
    manifest = served.model.manifest
    name = served.name.name  # as listed
    versions = [s.name.version for s in engine_of(request.scope).repository.served if s.name.name == name]
    return ModelMetadata(
        name=name,
        versions=[str(n) for n in versions],
        platform="onnxruntime_onnx",
        inputs=[_tensor_metadata(tensor) for tensor in manifest.inputs],
        outputs=[_tensor_metadata(tensor) for tensor in manifest.outputs],
    )


@router.get("/models/{name}/ready")
@router.get("/models/{name}/versions/{version}/ready")
async def model_ready(request: Request, name: str, version: str | None = None) -> ModelReady:
    """Answer 200 while this model is served."""
    return ModelReady(name=_served(request, name, version).name.name, ready=True)


@router.post("/repository/index", openapi_extra=INDEX_COMMAND)
async def index(request: Request) -> list[IndexEntry]:
    """List the models in MODELS; with `ready` true, only those that are served."""
    command = await _command(request)
    ready_only = flag(command, "ready", "the request", False)
    return [
        IndexEntry(
            name=source.name,
            version="" if source.version is None else str(source.version),
            state=source.state,
            reason=source.error or "",
        )
        for source in engine_of(request.scope).repository.registrations
        if source.served or not ready_only
    ]


@router.post("/repository/models/{name}/load", **_ADMIN)
async def load(request: Request, name: str) -> Response:
    """Load every version of a model from its current files. Needs an admin key."""
    for key in parameters_of(await _command(request), "the request"):
        if key == "config" or key.startswith("file:"):
            raise InvalidRequest(
                f"parameters.{abbreviate(key)[1:-1]} is not supported; put the model file into MODELS"
            )
    await engine_of(request.scope).repository.load(name)
    return Response()


@router.post("/repository/models/{name}/unload", **_ADMIN)
async def unload(request: Request, name: str) -> Response:
    """Unload every version of a model; requests in flight are still answered. Needs an admin key."""
    parameters_of(await _command(request), "the request")
    await engine_of(request.scope).repository.unload(name)
    return Response()


def _served(request: Request, name: str, version: str | None) -> ServingModel:
    """Find the model of a path. Raises UnknownModel and NotReady."""
    engine = engine_of(request.scope)
    engine.require_worker()
    return engine.repository.find(name, parse_version(version))


async def _command(request: Request) -> dict[str, Any]:
    """Read the JSON object in the body; an empty body is an empty object."""
    coding = coding_of(request)
    body = await read_body(request, MAX_COMMAND_BYTES, request.app.state.settings.body_timeout_s)
    if coding != IDENTITY:
        body = inflate(body, coding, MAX_COMMAND_BYTES)
    return read_json(body) if body.strip() else {}


def _tensor_metadata(tensor: Tensor) -> TensorMetadata:
    return TensorMetadata(
        name=tensor.name,
        datatype=DATATYPES.get(tensor.dtype, tensor.dtype.upper()),
        shape=[-1 if n is None else n for n in tensor.shape],
    )
