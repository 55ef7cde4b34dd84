"""The routes that take images. Where there would be no room a request is refused (429); else its body is
read, to the limit at most, its images are admitted or refused, and each is answered.
"""

import asyncio
import math
from collections.abc import Callable, Coroutine
from typing import Any, Final, TypeVar
from urllib.parse import quote

import numpy as np
from fastapi import APIRouter, Request, Response
from fastapi.routing import APIRoute
from pydantic import BaseModel

from alexnet_client.schemas import Answer, EmbedAnswer, Explanation, PredictAnswer, Problem, Results
from contract.picture import ImageError
from service.answers import classify, embed, explain
from service.body import announced_bytes, read_images
from service.edge import KEY
from service.engine import engine_of
from service.errors import DeadlineExceeded, InvalidRequest, documented, problem_of
from service.explain import GRID, overlay
from service.query import EmbedQuery, ExplainQuery, PredictQuery, Query, documented_query, read_query
from service.served import Served
from service.settings import Settings

T = TypeVar("T", bound=BaseModel)
DEFAULT_TOP_K: Final = 5
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


class Ask:
    """What every such request says: which model, and in how many s it is to be answered."""

    def __init__(self, request: Request, query: Query) -> None:
        self.request = request
        self.engine = engine_of(request.scope)
        self.settings: Settings = request.app.state.settings
        self.limit = min(self.settings.request_timeout_s, (query.timeout_ms or math.inf) / 1000)
        self.engine.require_worker()
        self.served = self.engine.repository.find(query.model, query.version)

    async def answer(
        self,
        one: Callable[[Served, bytes], Coroutine[Any, Any, T]],
        images_each: int = 1,
        single: bool = False,
    ) -> T | Results[T]:
        """`one` of each image of the body; `images_each` is what it costs. Raises what is wrong with a
        request's only image; of several, each has its own answer or problem.
        """
        settings, request = self.settings, self.request
        most = 1 if single else max(1, settings.max_queue // images_each)
        limit = settings.max_body_bytes
        admitted = self.engine.admission.admit(
            announced_bytes(request, limit), images_each, request.scope[KEY]
        )
        with self.served.use(), admitted as visit:
            try:
                async with asyncio.timeout(None) as deadline:
                    images = await read_images(
                        request,
                        limit,
                        settings.body_timeout_s,
                        most,
                        visit.receive,
                        lambda: deadline.reschedule(asyncio.get_running_loop().time() + self.limit),
                    )
                    turns = visit.take_share(len(images.files), images_each)
                    if not images.several:
                        return await one(self.served, images.files[0])
                    async with asyncio.TaskGroup() as group:  # if one fails, none goes on by itself
                        each = [
                            group.create_task(_or_problem(turns, one, self.served, data))
                            for data in images.files
                        ]
                    results = zip((task.result() for task in each), images.names, strict=True)
                    return Results(results=[_named(answer, file) for answer, file in results])
            except TimeoutError:
                raise DeadlineExceeded(f"no answer within {self.limit:g} s") from None
            except BaseExceptionGroup as several:
                raise several.exceptions[0] from None


async def _or_problem(
    turns: asyncio.Semaphore,
    one: Callable[[Served, bytes], Coroutine[Any, Any, T]],
    served: Served,
    data: bytes,
) -> T | Problem:
    try:
        async with turns:
            return await one(served, data)
    except ImageError as error:
        return problem_of(error)


def _named(answer: T | Problem, file: str | None) -> T | Problem:
    """Which of the files of a form it is about."""
    return answer if file is None else answer.model_copy(update={"file": file})


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
    response_model=PredictAnswer | Results[PredictAnswer],
)
async def predict(request: Request) -> Response:
    """Which class an image shows."""
    query = read_query(request, PredictQuery)
    ask, top_k, crops = Ask(request, query), query.top_k, query.crops
    classes = len(ask.served.model.manifest.classes)
    if top_k is not None and top_k > classes:
        raise InvalidRequest(f"top_k is {top_k}; this model has {classes} classes")
    wanted = top_k or min(DEFAULT_TOP_K, classes)
    return await said(
        await ask.answer(
            lambda served, data: classify(ask.engine, served, data, wanted, crops), images_each=crops
        )
    )


@router.post(
    "/embed",
    openapi_extra=_described(EmbedQuery),
    responses={200: {"content": {"application/octet-stream": {"schema": _FILE}}}},
    response_model=EmbedAnswer | Results[EmbedAnswer],
)
async def embedding(request: Request) -> Response:
    """fc7, the features of the paper's Figure 4: near each other for images that are alike."""
    query = read_query(request, EmbedQuery)
    ask = Ask(request, query)
    answer = await ask.answer(lambda served, data: embed(ask.engine, served, data, query.normalize))
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
    ask, label = Ask(request, query), query.label
    classes = ask.served.model.manifest.classes
    if label is not None and label not in classes:
        raise InvalidRequest(f"label is {label[:80]!r}; this model has {', '.join(classes)[:200]}")
    wanted = None if label is None else classes.index(label)
    picture = b""

    async def one(served: Served, data: bytes) -> Explanation:
        nonlocal picture
        answer, crop = await explain(ask.engine, served, data, wanted)
        if query.format == "png":
            picture = await asyncio.to_thread(overlay, crop, np.array(answer.map, np.float32))
        return answer

    answer = await ask.answer(one, images_each=1 + GRID * GRID, single=True)
    assert isinstance(answer, Explanation)
    if query.format == "json":
        return await said(answer)
    headers = server_timing(answer) | {"X-Label": quote(answer.label)}
    return Response(picture, headers=headers, media_type="image/png")
