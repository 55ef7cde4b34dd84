"""The routes that take images. Where there would be no room a request is refused (429); else its body is
read, to the limit at most, its images are admitted or refused, and each is answered.
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
from service.http.error_responses import documented
from service.http.query import EmbedQuery, ExplainQuery, PredictQuery, Query, documented_query, read_query
from service.http.request_frame import RequestFrame, infer_each
from service.inference.occlusion import GRID, overlay
from service.inference.tasks import DEFAULT_TOP_K, classify, embed, explain
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


class _Direct(APIRoute):
    """Its endpoint takes the request and returns the response: FastAPI describes it, and need not look for
    parameters and dependencies in every request, a twentieth of the event loop's time.
    """

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        endpoint: Callable[[Request], Coroutine[Any, Any, Response]] = self.endpoint
        return endpoint


router = APIRouter(route_class=_Direct, responses=documented(401, 404, 408, 413, 415, 422, 429, 503, 504))


def _described(query: type[Query]) -> dict[str, Any]:
    return _IMAGE_BODY | {"parameters": documented_query(query)}


async def infer_images(
    frame: RequestFrame, infer: Callable[[bytes], Awaitable[T]], images_each: int = 1, single: bool = False
) -> T | Results[T]:
    """Infer each image of the body; `images_each` is what one costs.

    Raises what is wrong with a request's only image; of several, each has its own result or problem.
    """
    settings = frame.settings
    most = 1 if single else max(1, settings.max_queue // images_each)
    async with frame.admitted(images_each) as permit:
        images = await read_images(
            frame.request,
            settings.max_body_bytes,
            settings.body_timeout_s,
            most,
            permit.receive,
            frame.start_deadline,
        )
        turns = permit.acquire_share(len(images.files), images_each)
        if not images.several:
            return await infer(images.files[0])
        results = await infer_each(images.files, infer, turns)
        return Results(
            results=[
                _named(problem_of(one) if isinstance(one, ImageError) else one, file)
                for one, file in zip(results, images.names, strict=True)
            ]
        )


def _named(answer: T | Problem, file: str | None) -> T | Problem:
    """Add which of the files of a form it is about."""
    return answer if file is None else answer.model_copy(update={"file": file})


def _frame(request: Request, query: Query) -> RequestFrame:
    return RequestFrame(request, query.model, query.version, query.timeout_ms)


async def said(answer: Answer | Results[Any]) -> Response:
    """As JSON, not validated once more as FastAPI would. Of one image with Server-Timing for browsers."""
    if isinstance(answer, Answer):
        headers = server_timing(answer)
        return Response(answer.model_dump_json(), media_type="application/json", headers=headers)
    return Response(await asyncio.to_thread(_joined, answer), media_type="application/json")


def _joined(answer: Results[Any]) -> str:
    """One at a time: whoever else wants the interpreter waits for each call, 0.2 s for 256 of fc7."""
    return f'{{"results":[{",".join(each.model_dump_json() for each in answer.results)}]}}'


def server_timing(answer: Answer) -> dict[str, str]:
    stages = answer.timing_ms.model_dump().items()
    return {"Server-Timing": ", ".join(f"{stage};dur={ms}" for stage, ms in stages)}


@router.post(
    "/predict",
    openapi_extra=_described(PredictQuery),
    response_model=PredictResponse | Results[PredictResponse],
)
async def predict(request: Request) -> Response:
    """Which class an image shows."""
    query = read_query(request, PredictQuery)
    frame, top_k, crops = _frame(request, query), query.top_k, query.crops
    classes = len(frame.served.model.manifest.classes)
    if top_k is not None and top_k > classes:
        raise InvalidRequest(f"top_k is {top_k}; this model has {classes} classes")
    wanted = top_k or min(DEFAULT_TOP_K, classes)
    return await said(
        await infer_images(
            frame,
            lambda data: classify(frame.engine, frame.served, data, wanted, crops),
            images_each=crops,
        )
    )


@router.post(
    "/embed",
    openapi_extra=_described(EmbedQuery),
    responses={200: {"content": {"application/octet-stream": {"schema": _FILE}}}},
    response_model=EmbedResponse | Results[EmbedResponse],
)
async def embedding(request: Request) -> Response:
    """fc7, the features of the paper's Figure 4: near each other for images that are alike."""
    query = read_query(request, EmbedQuery)
    frame = _frame(request, query)
    answer = await infer_images(
        frame, lambda data: embed(frame.engine, frame.served, data, query.normalize)
    )
    if query.format == "json":
        return await said(answer)
    answers = answer.results if isinstance(answer, Results) else [answer]
    for number, each in enumerate(answers, 1):
        if isinstance(each, Problem):
            raise InvalidRequest(f"image {number}: {each.detail}; raw features have no place for a problem")
    vectors = np.array([each.embedding for each in answers], "<f4")  # type: ignore[union-attr]
    return Response(vectors.tobytes(), media_type="application/octet-stream")


@router.post(
    "/explain",
    openapi_extra=_described(ExplainQuery),
    responses={200: {"content": {"image/png": {"schema": _FILE}}, "description": "a PNG, or JSON"}},
    response_model=Explanation,
)
async def explanation(request: Request) -> Response:
    """What the answer rests on: how far its probability falls when a part of the image is covered."""
    query = read_query(request, ExplainQuery)
    frame, label = _frame(request, query), query.label
    classes = frame.served.model.manifest.classes
    if label is not None and label not in classes:
        raise InvalidRequest(f"label is {label[:80]!r}; this model has {', '.join(classes)[:200]}")
    wanted = None if label is None else classes.index(label)
    picture = b""

    async def one(data: bytes) -> Explanation:
        nonlocal picture
        answer, crop = await explain(frame.engine, frame.served, data, wanted)
        if query.format == "png":
            picture = await asyncio.to_thread(overlay, crop, np.array(answer.map, np.float32))
        return answer

    answer = await infer_images(frame, one, images_each=1 + GRID * GRID, single=True)
    assert isinstance(answer, Explanation)
    if query.format == "json":
        return await said(answer)
    headers = server_timing(answer) | {"X-Label": quote(answer.label)}
    return Response(picture, headers=headers, media_type="image/png")
