"""Inference by the Open Inference Protocol v2: tensors of pixels or image files in, tensors out. Its images
meet those of /predict in the same batches.
"""

import asyncio
import time
from collections.abc import Coroutine
from typing import Annotated, Any, Final

import numpy as np
from fastapi import APIRouter, Header, Request, Response

from contract.manifest import Tensor
from contract.picture import ImageError
from service.errors import UnknownModel
from service.http.body.compression import coding_of, unpack
from service.http.body.read import read_body
from service.http.body.reader_thread import QUICK, read_apart
from service.http.query import refuse_unknown
from service.http.request_frame import RequestFrame, infer_each
from service.http.v2.request import InferRequest, parse_request
from service.http.v2.response import build_response
from service.http.v2.schemas import BINARY, INFER_ANSWER, INFER_REQUEST
from service.inference.admission import Permit
from service.inference.engine import Decoded, Engine, Inferred
from service.models.serving import ServingModel
from service.models.session import Row
from service.settings import Settings

ENCODED: Final = Tensor("encoded", "bytes", (None,), "image files, as /predict takes them")
HEADER: Final = "Inference-Header-Content-Length"
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

router = APIRouter()


def version_of(text: str | None) -> int | None:
    """Read the version in a path. Raises UnknownModel."""
    if text is not None and not (text.isascii() and text.isdecimal() and len(text) < 16):
        raise UnknownModel(f"version is {text[:40]!r}; versions are whole numbers from 1")
    return None if text is None else int(text)


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
    refuse_unknown(request, ["version"])
    coding = coding_of(request)
    frame = RequestFrame(request, name, version_of(version), x_request_timeout_ms)
    settings = frame.settings
    async with frame.admitted() as permit:
        body = await read_body(request, settings.max_body_bytes, settings.body_timeout_s, permit.receive)
        began = time.perf_counter()
        frame.start_deadline()
        body = await unpack(body, coding, settings.max_body_bytes, permit.receive)
        json_bytes = _json_bytes(inference_header_content_length, body)
        given = (body, inference_header_content_length, frame.served, settings)
        asked = await read_apart(json_bytes > QUICK, _read, *given)
        del body, given  # the tensors keep what they need of it
        frame.shorten_deadline(asked.timeout)
        return await _answer(frame.engine, frame.served, asked, began, permit)


def _json_bytes(header_length: str | None, body: bytes) -> int:
    """Of the body; all of it where the header says nothing that can be."""
    given = header_length or ""
    return int(given) if given.isascii() and given.isdecimal() and len(given) < 16 else len(body)


def _read(body: bytes, header_length: str | None, served: ServingModel, settings: Settings) -> InferRequest:
    """Raises InvalidFields."""
    manifest = served.model.manifest
    inputs = (*manifest.inputs, ENCODED)
    return parse_request(body, header_length, inputs, manifest.outputs, settings.max_queue)


async def _answer(
    engine: Engine, served: ServingModel, asked: InferRequest, began: float, permit: Permit
) -> Response:
    """Raises Overloaded, ImageError, SchedulerClosed, or what the session raised. `began` is of
    `time.perf_counter`.
    """
    ((name, value),) = asked.inputs.items()
    outputs = tuple(output.tensor.name for output in asked.outputs)
    decoding = 0.0
    if isinstance(value, np.ndarray):
        permit.acquire(len(value))
        inferred = await engine.infer(served, list(value), outputs)
    else:
        turns = permit.acquire_share(len(value))
        decoding, inferred = await _look(engine, served, name, value, outputs, turns)
    for _row in inferred.rows:
        engine.count_image(inferred.waited)
    head = {"model_name": served.name.name, "model_version": str(served.name.version)}
    if asked.id is not None:
        head["id"] = asked.id
    labels = served.model.manifest.classes
    content, json_bytes = await asyncio.to_thread(
        build_response, head, asked.outputs, inferred.rows, labels
    )
    stages = {
        "decode": decoding,
        "queue": inferred.waited,
        "inference": inferred.took,
        "total": time.perf_counter() - began,
    }
    headers = {"Server-Timing": ", ".join(f"{stage};dur={s * 1000:.3f}" for stage, s in stages.items())}
    if json_bytes is None:
        return Response(content, media_type="application/json", headers=headers)
    headers[HEADER] = str(json_bytes)
    return Response(content, media_type="application/octet-stream", headers=headers)


async def _look(
    engine: Engine,
    served: ServingModel,
    name: str,
    files: list[bytes],
    outputs: tuple[str, ...],
    turns: asyncio.Semaphore,
) -> tuple[float, Inferred]:
    """-> the longest decoding, seconds; and what the outputs say of each file, with the longest wait for a
    thread and a batch, and the longest run. Raises ImageError, which names the file.
    """

    def look(data: bytes) -> Coroutine[Any, Any, tuple[Decoded, Inferred]]:
        return engine.look(served, data, outputs, 1)

    rows, decoding, waited, took = list[Row](), 0.0, 0.0, 0.0
    for index, result in enumerate(await infer_each(files, look, turns)):
        if isinstance(result, ImageError):
            raise type(result)(f"{name}[{index}]: {result}")
        decoded, inferred = result
        rows += inferred.rows
        decoding = max(decoding, decoded.took)
        waited, took = max(waited, decoded.waited + inferred.waited), max(took, inferred.took)
    return decoding, Inferred(rows, waited, took)
