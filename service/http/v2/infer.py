"""The infer routes of the Open Inference Protocol v2: pixel tensors or image files in, tensors out.

Their images share batches with those of /predict.
"""

import asyncio
import time
from collections.abc import Coroutine
from typing import Annotated, Any, Final

import numpy as np
from fastapi import APIRouter, Header, Request, Response

from contract.manifest import Tensor
from contract.picture import ImageError
from contract.trust import UNFAMILIARITY
from service.errors import UnknownModel
from service.http.body.compression import coding_of, unpack
from service.http.body.read import read_body
from service.http.body.reader_thread import MAX_INLINE_BYTES, run_in_reader_thread
from service.http.query import refuse_unknown
from service.http.request_frame import RequestFrame, infer_each
from service.http.v2.request import InferRequest, parse_request
from service.http.v2.response import build_response
from service.http.v2.schemas import BINARY, INFER_REQUEST, INFER_RESPONSE
from service.inference.admission import Permit
from service.inference.engine import DecodedCrops, Engine, InferenceResult
from service.models.serving import ServingModel
from service.models.session import Outputs
from service.settings import Settings

ENCODED: Final = Tensor("encoded", "bytes", (None,), "image files, as for /predict")
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
            "description": "the requested outputs",
            "content": {"application/json": {"schema": INFER_RESPONSE}, "application/octet-stream": BINARY},
        }
    },
}

router = APIRouter()


def parse_version(text: str | None) -> int | None:
    """Parse the version in a path; None stays None. Raises UnknownModel."""
    if text is not None and not (text.isascii() and text.isdecimal() and len(text) < 16):
        raise UnknownModel(f"version is {text[:40]!r}; versions are whole numbers from 1")
    return None if text is None else int(text)


@router.post("/models/{name}/infer", **_INFER)
@router.post("/models/{name}/versions/{version}/infer", **_INFER)
async def infer(
    request: Request,
    name: str,
    version: str | None = None,
    inference_header_content_length: Annotated[
        str | None, Header(description="length of the JSON part in bytes")
    ] = None,
    x_request_timeout_ms: Annotated[
        float | None, Header(ge=1, description="deadline in ms; the server's own limit is the maximum")
    ] = None,
) -> Response:
    """Infer the requested outputs.

    The input is either the UINT8 tensor `images` or the BYTES tensor `encoded` of image files, as base64 in
    the JSON or as binary data after it.
    """
    refuse_unknown(request, ["version"])
    coding = coding_of(request)
    frame = RequestFrame(request, name, parse_version(version), x_request_timeout_ms)
    settings = frame.settings
    async with frame.admitted() as permit:
        body = await read_body(request, settings.max_body_bytes, settings.body_timeout_s, permit.receive)
        started = time.perf_counter()
        frame.start_deadline()
        body = await unpack(body, coding, settings.max_body_bytes, permit.receive)
        json_length = _json_length(inference_header_content_length, body)
        arguments = (body, inference_header_content_length, frame.served, settings)
        infer_request = await run_in_reader_thread(json_length > MAX_INLINE_BYTES, _parse, *arguments)
        del body, arguments  # the tensors keep the parts that they need
        frame.shorten_deadline(infer_request.timeout)
        return await _respond(frame.engine, frame.served, infer_request, started, permit)


def _json_length(header_length: str | None, body: bytes) -> int:
    """Return the length of the JSON part: the whole body if the header is missing or malformed."""
    text = header_length or ""
    return int(text) if text.isascii() and text.isdecimal() and len(text) < 16 else len(body)


def _parse(
    body: bytes, header_length: str | None, served: ServingModel, settings: Settings
) -> InferRequest:
    """Parse the body against the model's tensors. Raises InvalidRequest."""
    manifest = served.model.manifest
    inputs = (*manifest.inputs, ENCODED)
    return parse_request(body, header_length, inputs, manifest.outputs, settings.max_queue)


async def _respond(
    engine: Engine, served: ServingModel, request: InferRequest, started: float, permit: Permit
) -> Response:
    """Infer the request's images and build the response. `started` is a time of `time.perf_counter`.

    Raises Overloaded, ImageError, SchedulerClosed, or the session's own error.
    """
    ((name, value),) = request.inputs.items()
    outputs = tuple(output.tensor.name for output in request.outputs)
    decode_s, preprocessing = 0.0, list[str]()
    if isinstance(value, np.ndarray):
        permit.acquire(len(value))
        inferred = await engine.infer(served, value, outputs)
    else:
        slots = permit.acquire_share(len(value))
        decode_s, preprocessing, inferred = await _infer_files(engine, served, name, value, outputs, slots)
    for _image in range(request.images):
        engine.count_image(inferred.waited)
    familiarity = None if (trust := served.model.manifest.trust) is None else trust.familiarity
    if familiarity is not None and UNFAMILIARITY in outputs:
        for value in np.clip(inferred.outputs[UNFAMILIARITY], 0, 1).tolist():
            engine.count_unfamiliarity(value, value <= familiarity.unknown_above)
    head: dict[str, Any] = {"model_name": served.name.name, "model_version": str(served.name.version)}
    if request.id is not None:
        head["id"] = request.id
    if any(preprocessing):  # decoded on the GPU; an id for each image, empty for that of the model's file
        head["parameters"] = {"preprocessing": ",".join(preprocessing)}
    labels = served.model.manifest.classes
    content, json_length = await asyncio.to_thread(
        build_response, head, request.outputs, inferred.outputs, labels
    )
    stages = {
        "decode": decode_s,
        "queue": inferred.waited,
        "inference": inferred.took,
        "total": time.perf_counter() - started,
    }
    headers = {
        "Server-Timing": ", ".join(f"{stage};dur={seconds * 1000:.3f}" for stage, seconds in stages.items())
    }
    if json_length is None:
        return Response(content, media_type="application/json", headers=headers)
    headers[HEADER] = str(json_length)
    return Response(content, media_type="application/octet-stream", headers=headers)


async def _infer_files(
    engine: Engine,
    served: ServingModel,
    name: str,
    files: list[bytes],
    outputs: tuple[str, ...],
    slots: asyncio.Semaphore,
) -> tuple[float, list[str], InferenceResult]:
    """Infer image files. Return the longest decoding time, s, ids of preprocessing, and the outputs' rows.

    An id is empty where it is that of the model's file. The result's `waited` is the longest wait for a
    worker and a batch, `took` the longest run. Raises ImageError, whose message names the tensor and the
    index of the file.
    """

    def infer_file(data: bytes) -> Coroutine[Any, Any, tuple[DecodedCrops, InferenceResult]]:
        return engine.infer_image(served, data, outputs, 1)

    rows, ids, decode_s, waited, took = list[Outputs](), list[str](), 0.0, 0.0, 0.0
    for index, result in enumerate(await infer_each(files, infer_file, slots)):
        if isinstance(result, ImageError):
            raise type(result)(f"{name}[{index}]: {result}")
        decoded, inferred = result
        rows.append(inferred.outputs)
        ids.append(decoded.info.preprocessing or "")
        decode_s = max(decode_s, decoded.took)
        waited, took = max(waited, decoded.waited + inferred.waited), max(took, inferred.took)
    joined = {name: np.concatenate([values[name] for values in rows]) for name in outputs}
    return decode_s, ids, InferenceResult(joined, waited, took)
