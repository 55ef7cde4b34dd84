"""Routes that take images: /predict, /embed and /explain.

Each request passes admission first, which may refuse it (429). Then its body is read, up to MAX_BODY_BYTES,
its images are admitted, and each is inferred.
"""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Final, TypeVar
from urllib.parse import quote

import numpy as np
from fastapi import APIRouter, Request, Response
from fastapi.routing import APIRoute
from pydantic import BaseModel

from alexnet_client.schemas import Answer, EmbedResponse, Explanation, PredictResponse, Problem, Results
from contract.picture import ImageError
from service.errors import InvalidRequest
from service.http.body.read import read_images
from service.http.error_responses import document_problems
from service.http.query import EmbedQuery, ExplainQuery, PredictQuery, Query, query_parameters, read_query
from service.http.request_frame import RequestFrame, infer_each
from service.inference.occlusion import GRID, overlay
from service.inference.tasks import check_options, classify, embed, explain
from service.problems import problem_of

T = TypeVar("T", bound=BaseModel)
_FILE: Final = {"type": "string", "format": "binary"}
_BASE64: Final = {"type": "string", "contentEncoding": "base64"}
_IMAGE_BODY: Final[dict[str, Any]] = {
    "requestBody": {
        "required": True,
        "description": "One image or several: fields `file` of a form, base64 in JSON, or the bare image.",
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["file"],
                    "properties": {"file": {"type": "array", "items": _FILE, "minItems": 1}},
                }
            },
            "application/json": {
                "schema": {
                    "type": "object",
                    "properties": {
                        "image": _BASE64,
                        "images": {"type": "array", "items": _BASE64, "minItems": 1},
                    },
                    "minProperties": 1,
                    "maxProperties": 1,
                    "additionalProperties": False,
                }
            },
            "image/*": {"schema": _FILE},
            "application/octet-stream": {"schema": _FILE},
        },
    }
}


class _DirectRoute(APIRoute):
    """A route whose endpoint takes the request and returns the response.

    FastAPI only describes it: resolving parameters and dependencies on every request took 5 % of the event
    loop's time.
    """

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        endpoint: Callable[[Request], Coroutine[Any, Any, Response]] = self.endpoint
        return endpoint


router = APIRouter(
    route_class=_DirectRoute,
    responses=document_problems(401, 404, 408, 413, 415, 422, 429, 503, 504),
)


def _openapi_extra(query: type[Query]) -> dict[str, Any]:
    return _IMAGE_BODY | {"parameters": query_parameters(query)}


async def infer_images(
    frame: RequestFrame, infer: Callable[[bytes], Awaitable[T]], images_each: int = 1, single: bool = False
) -> T | Results[T]:
    """Infer every image of the body. One image counts as `images_each` in admission.

    `single`: the body may have one image only. Raises the error of a request's only image; of several
    images, each gets its own result or problem.
    """
    settings = frame.settings
    max_files = 1 if single else max(1, settings.max_queue // images_each)
    async with frame.admitted(images_each) as permit:
        images = await read_images(
            frame.request,
            settings.max_body_bytes,
            settings.body_timeout_s,
            max_files,
            permit.receive,
            frame.start_deadline,
        )
        slots = permit.acquire_share(len(images.files), images_each)
        if not images.several:
            return await infer(images.files[0])
        results = await infer_each(images.files, infer, slots)
        return Results(
            results=[
                _with_file_name(problem_of(result) if isinstance(result, ImageError) else result, file)
                for result, file in zip(results, images.names, strict=True)
            ]
        )


def _with_file_name(result: T | Problem, file: str | None) -> T | Problem:
    """Add the name that a form gives the file."""
    return result if file is None else result.model_copy(update={"file": file})


def _frame(request: Request, query: Query) -> RequestFrame:
    return RequestFrame(request, query.model, query.version, query.timeout_ms)


async def json_response(answer: Answer | Results[Any]) -> Response:
    """Serialize an answer without FastAPI's second validation; of one image, with Server-Timing."""
    if isinstance(answer, Answer):
        headers = server_timing(answer)
        return Response(answer.model_dump_json(), media_type="application/json", headers=headers)
    return Response(await asyncio.to_thread(_results_json, answer), media_type="application/json")


def _results_json(answer: Results[Any]) -> str:
    """Serialize one result per call: each call holds the GIL, for 256 fc7 vectors at once 0.2 s."""
    return f'{{"results":[{",".join(result.model_dump_json() for result in answer.results)}]}}'


def server_timing(answer: Answer) -> dict[str, str]:
    """Build the header Server-Timing, which browsers show, from the stages of an answer."""
    stages = answer.timing_ms.model_dump().items()
    return {"Server-Timing": ", ".join(f"{stage};dur={ms}" for stage, ms in stages)}


@router.post(
    "/predict",
    openapi_extra=_openapi_extra(PredictQuery),
    response_model=PredictResponse | Results[PredictResponse],
)
async def predict(request: Request) -> Response:
    """Classify images: the most probable classes of each."""
    query = read_query(request, PredictQuery)
    frame = _frame(request, query)
    options = check_options(frame.served, query.top_k, query.crops, query.coverage, query.unknown_above)
    return await json_response(
        await infer_images(
            frame,
            lambda data: classify(frame.engine, frame.served, data, options),
            images_each=query.crops,
        )
    )


@router.post(
    "/embed",
    openapi_extra=_openapi_extra(EmbedQuery),
    responses={200: {"content": {"application/octet-stream": {"schema": _FILE}}}},
    response_model=EmbedResponse | Results[EmbedResponse],
)
async def embedding(request: Request) -> Response:
    """Embed images: fc7, the features of the paper's Figure 4, which are close for similar images."""
    query = read_query(request, EmbedQuery)
    frame = _frame(request, query)
    answer = await infer_images(
        frame, lambda data: embed(frame.engine, frame.served, data, query.normalize)
    )
    if query.format == "json":
        return await json_response(answer)
    answers = answer.results if isinstance(answer, Results) else [answer]
    for number, result in enumerate(answers, 1):
        if isinstance(result, Problem):
            raise InvalidRequest(f"image {number}: {result.detail}; format=raw cannot report problems")
    vectors = np.array([result.embedding for result in answers], "<f4")  # type: ignore[union-attr]
    return Response(vectors.tobytes(), media_type="application/octet-stream")


@router.post(
    "/explain",
    openapi_extra=_openapi_extra(ExplainQuery),
    responses={200: {"content": {"image/png": {"schema": _FILE}}, "description": "a PNG, or JSON"}},
    response_model=Explanation,
)
async def explanation(request: Request) -> Response:
    """Explain one image: how far the label's probability falls when a part of it is covered."""
    query = read_query(request, ExplainQuery)
    frame, label = _frame(request, query), query.label
    classes = frame.served.model.manifest.classes
    if label is not None and label not in classes:
        raise InvalidRequest(f"label is {label[:80]!r}; this model has {', '.join(classes)[:200]}")
    index = None if label is None else classes.index(label)
    picture = b""

    async def explain_image(data: bytes) -> Explanation:
        nonlocal picture
        answer, crop = await explain(frame.engine, frame.served, data, index)
        if query.format == "png":
            picture = await asyncio.to_thread(overlay, crop, np.array(answer.map, np.float32))
        return answer

    answer = await infer_images(frame, explain_image, images_each=1 + GRID * GRID, single=True)
    assert isinstance(answer, Explanation)
    if query.format == "json":
        return await json_response(answer)
    headers = server_timing(answer) | {"X-Label": quote(answer.label)}
    return Response(picture, headers=headers, media_type="image/png")
