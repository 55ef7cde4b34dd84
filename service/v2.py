"""The Open Inference Protocol v2 over HTTP, with Triton's extensions for binary tensors, classification and
the model repository. Its images meet those of /predict in the same batches.
"""

import asyncio
import math
import time
from typing import Annotated, Any, Final

import numpy as np
from fastapi import APIRouter, Depends, Header, Request, Response

from contract.manifest import Tensor
from contract.picture import ImageError
from contract.preprocess import Pixels
from service.body import announced_bytes, inflate, read_body
from service.edge import KEY
from service.engine import Engine
from service.errors import (
    STATUSES,
    DeadlineExceeded,
    InvalidRequest,
    NotReady,
    UnknownModel,
    protocol_status,
)
from service.fields import flag, parameters_of, read_json
from service.infer_answer import build_response
from service.served import Served
from service.settings import Settings
from service.tensors import DATATYPES, InferRequest, parse_request
from service.v2_schemas import (
    BINARY,
    INDEX_COMMAND,
    INFER_ANSWER,
    INFER_REQUEST,
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

EXTENSIONS: Final = ["binary_tensor_data", "classification", "model_repository"]
VERSION: Final = "0.1.0"
ENCODED: Final = Tensor("encoded", "bytes", (None,), "image files, as /predict takes them")
HEADER: Final = "Inference-Header-Content-Length"
MAX_COMMAND_BYTES: Final = 100_000  # of the body of a call to the repository
_ERROR: Final[dict[str, Any]] = {"model": ProtocolError}
_ERRORS: Final[dict[int | str, dict[str, Any]]] = {
    **{protocol_status(status): _ERROR for status, _code in STATUSES.values() if status != 403},
    "default": _ERROR,
}
_INFER: Final[dict[str, Any]] = {
    "response_class": Response,
    "openapi_extra": {
        "requestBody": {
            "required": True,
            "content": {"application/json": {"schema": INFER_REQUEST}, "application/octet-stream": BINARY},
        }
    },
    "responses": {
        200: {
            "description": "the outputs",
            "content": {"application/json": {"schema": INFER_ANSWER}, "application/octet-stream": BINARY},
        }
    },
}

router = APIRouter(prefix="/v2", responses=_ERRORS, tags=["Open Inference Protocol"])


def _engine(request: Request) -> Engine:
    found: Engine = request.app.state.engine
    return found


def _served(request: Request, name: str, version: str | None = None) -> Served:
    """Raises UnknownModel and NotReady."""
    if version is not None and not (version.isascii() and version.isdecimal() and len(version) < 16):
        raise UnknownModel(f"version is {version[:40]!r}; versions are whole numbers from 1")
    engine = _engine(request)
    served = engine.repository.find(name, None if version is None else int(version))
    if not served.batcher.alive:
        raise NotReady("the inference worker has ended; the server needs a restart")
    return served


async def _require_admin(request: Request) -> None:
    """Raises Forbidden, and InvalidRequest where the call would reach one of several workers."""
    request.app.state.keys.require_admin(request.scope[KEY])
    workers = request.app.state.settings.workers
    if workers > 1:
        raise InvalidRequest(
            f"this would reach one of {workers} workers; put the file into MODELS and send SIGHUP, which "
            "reaches all"
        )


_ADMIN: Final[dict[str, Any]] = {
    "response_class": Response,
    "dependencies": [Depends(_require_admin)],
    "openapi_extra": MODEL_COMMAND,
    "responses": {403: _ERROR},
}


@router.get("")
async def server() -> ServerMetadata:
    """What this server is, and which of the protocol's extensions it has."""
    return ServerMetadata(name="alexnet", version=VERSION, extensions=EXTENSIONS)


@router.get("/health/live")
async def live() -> Live:
    """200 while the process answers at all."""
    return Live(live=True)


@router.get("/health/ready")
async def ready(request: Request) -> Ready:
    """200 while predictions can be answered."""
    engine = _engine(request)
    engine.require_worker()
    if engine.draining:
        raise NotReady("the server is stopping")
    return Ready(ready=True)


@router.get("/models/{name}")
@router.get("/models/{name}/versions/{version}")
async def model(request: Request, name: str, version: str | None = None) -> ModelMetadata:
    """Inputs and outputs, as the model file lists them. `encoded` is taken in place of `images`."""
    served = _served(request, name, version)
    manifest = served.model.manifest
    versions = [s.name.version for s in _engine(request).repository.served if s.name.name == name]
    return ModelMetadata(
        name=name,
        versions=[str(n) for n in versions],
        platform="onnxruntime_onnx",
        inputs=[_described(tensor) for tensor in manifest.inputs],
        outputs=[_described(tensor) for tensor in manifest.outputs],
    )


@router.get("/models/{name}/ready")
@router.get("/models/{name}/versions/{version}/ready")
async def model_ready(request: Request, name: str, version: str | None = None) -> ModelReady:
    """200 while this model answers."""
    return ModelReady(name=_served(request, name, version).name.name, ready=True)


@router.post("/models/{name}/infer", **_INFER)
@router.post("/models/{name}/versions/{version}/infer", **_INFER)
async def infer(
    request: Request,
    name: str,
    version: str | None = None,
    inference_header_content_length: Annotated[str | None, Header(description="bytes of the JSON")] = None,
    x_request_timeout_ms: Annotated[
        float | None, Header(ge=1, description="less than the server's")
    ] = None,
) -> Response:
    """The outputs asked for, of the UINT8 tensor `images` or of the image files in the BYTES tensor
    `encoded`: base64 in JSON, or behind it.
    """
    engine, settings = _engine(request), request.app.state.settings
    encoding = request.headers.get("content-encoding", "identity").lower()
    if encoding not in {"identity", "gzip", "deflate"}:
        raise InvalidRequest(f"Content-Encoding is {encoding[:40]!r}; use gzip, deflate or none")
    size = announced_bytes(request, settings.max_body_bytes)
    if encoding != "identity":
        size = settings.max_body_bytes  # what it may become
    with (
        _served(request, name, version).use() as served,
        engine.admission.admit(size, 1, request.scope[KEY]) as visit,
    ):
        body = await read_body(request, settings.max_body_bytes, settings.body_timeout_s)
        began = time.perf_counter()
        asked = await asyncio.to_thread(
            _read, body, encoding, inference_header_content_length, served, settings
        )
        del body  # the tensors keep what they need of it
        visit.take(asked.images - 1)
        limit = min(settings.request_timeout_s, asked.timeout, (x_request_timeout_ms or math.inf) / 1000)
        try:
            async with asyncio.timeout(limit):
                return await _answer(engine, served, asked, began)
        except TimeoutError:
            raise DeadlineExceeded(f"no answer within {limit:g} s") from None


def _read(
    body: bytes, encoding: str, header_length: str | None, served: Served, settings: Settings
) -> InferRequest:
    """In a thread. Raises BodyTooLarge, InvalidRequest or InvalidFields."""
    if encoding != "identity":
        body = inflate(body, encoding, settings.max_body_bytes)
    manifest = served.model.manifest
    inputs = (*manifest.inputs, ENCODED)
    return parse_request(body, header_length, inputs, manifest.outputs, settings.max_queue)


async def _answer(engine: Engine, served: Served, asked: InferRequest, began: float) -> Response:
    """Raises ImageError, BatcherClosed, or what the session raised. `began` is of `time.perf_counter`."""
    ((name, value),) = asked.inputs.items()
    decoding = waiting = 0.0
    if isinstance(value, np.ndarray):
        crops: list[Pixels] = list(value)
    else:
        crops, decoding, waiting = await _decode(engine, served, name, value)
    outputs = tuple(output.tensor.name for output in asked.outputs)
    inferred = await engine.infer(served, crops, outputs)
    for _image in crops:
        engine.count_image(waiting + inferred.waited)
    head = {"model_name": served.name.name, "model_version": str(served.name.version)}
    if asked.id is not None:
        head["id"] = asked.id
    labels = served.model.manifest.classes
    content, json_bytes = await asyncio.to_thread(
        build_response, head, asked.outputs, inferred.rows, labels
    )
    stages = {
        "decode": decoding,
        "queue": waiting + inferred.waited,
        "inference": inferred.took,
        "total": time.perf_counter() - began,
    }
    headers = {"Server-Timing": ", ".join(f"{stage};dur={s * 1000:.3f}" for stage, s in stages.items())}
    if json_bytes is None:
        return Response(content, media_type="application/json", headers=headers)
    headers[HEADER] = str(json_bytes)
    return Response(content, media_type="application/octet-stream", headers=headers)


async def _decode(
    engine: Engine, served: Served, name: str, files: list[bytes]
) -> tuple[list[Pixels], float, float]:
    """-> the crops; the longest decoding and the longest wait for a thread, seconds. Raises ImageError,
    which names the file.
    """
    decoding = (engine.decode(served, data, 1) for data in files)
    crops, took, waited = [], 0.0, 0.0
    # All are awaited, so that none goes on in a thread when its request has been answered.
    for index, decoded in enumerate(await asyncio.gather(*decoding, return_exceptions=True)):
        if isinstance(decoded, ImageError):
            raise type(decoded)(f"{name}[{index}]: {decoded}")
        if isinstance(decoded, BaseException):
            raise decoded
        crops += decoded.crops
        took, waited = max(took, decoded.took), max(waited, decoded.waited)
    return crops, took, waited


@router.post("/repository/index", openapi_extra=INDEX_COMMAND)
async def index(request: Request) -> list[IndexEntry]:
    """Every model that there is a file of; with `ready` true those that are served."""
    command = await _command(request)
    ready_only = flag(command, "ready", "the request", False)
    return [
        IndexEntry(
            name=source.name,
            version="" if source.version is None else str(source.version),
            state=source.state,
            reason=source.error or "",
        )
        for source in _engine(request).repository.sources
        if source.served or not ready_only
    ]


@router.post("/repository/models/{name}/load", **_ADMIN)
async def load(request: Request, name: str) -> Response:
    """Every version of the model, from its files as they are now. For admins."""
    for key in parameters_of(await _command(request), "the request"):
        if key == "config" or key.startswith("file:"):
            raise InvalidRequest(f"parameters.{key[:40]} is not taken; put the model's file into MODELS")
    await _engine(request).repository.load(name)
    return Response()


@router.post("/repository/models/{name}/unload", **_ADMIN)
async def unload(request: Request, name: str) -> Response:
    """Every version of the model; what was asked of it before is answered. For admins."""
    parameters_of(await _command(request), "the request")
    await _engine(request).repository.unload(name)
    return Response()


async def _command(request: Request) -> dict[str, Any]:
    """The JSON object in the body, if there is one."""
    body = await read_body(request, MAX_COMMAND_BYTES, request.app.state.settings.body_timeout_s)
    return read_json(body) if body.strip() else {}


def _described(tensor: Tensor) -> TensorMetadata:
    return TensorMetadata(
        name=tensor.name,
        datatype=DATATYPES.get(tensor.dtype, tensor.dtype.upper()),
        shape=[-1 if n is None else n for n in tensor.shape],
    )
