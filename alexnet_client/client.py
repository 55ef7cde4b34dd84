"""A client for programs: `pip install ./alexnet_client` in a checkout, then

    from alexnet_client import Client

    with Client("http://127.0.0.1:8000") as client:
        print(client.predict("photo.jpg", top_k=1).predictions[0].label)

AsyncClient is the same with `async with` and `await`. Both are httpx's clients and take its settings.
Images are paths or the bytes of a file. What is refused is a ClientError, and so is no answer.
"""

import asyncio
import time
from base64 import b64encode
from collections.abc import Awaitable, Callable, Iterable
from pathlib import Path
from typing import Any, Literal, TypedDict, TypeVar, Unpack

import httpx
from pydantic import BaseModel

from alexnet_client.retry import ClientError as ClientError
from alexnet_client.retry import tries
from alexnet_client.schemas import EmbedResponse, Explanation, Health, PredictResponse, Problem, Results

Each = PredictResponse | Problem
Image = bytes | str | Path
A = TypeVar("A", bound=BaseModel)


class Which(TypedDict, total=False):
    model: str
    version: int


class PredictOptions(Which, total=False):
    top_k: int
    crops: Literal[1, 10]


class ExplainOptions(Which, total=False):
    label: str


def _settings(server: str, key: str | None, settings: dict[str, Any]) -> dict[str, Any]:
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    return {"base_url": server, "headers": headers, "timeout": 60} | settings


def _bytes(image: Image) -> bytes:
    return image if isinstance(image, bytes) else Path(image).read_bytes()


def _json(images: Iterable[Image]) -> dict[str, list[str]]:
    return {"images": [b64encode(_bytes(image)).decode() for image in images]}


class Client(httpx.Client):
    def __init__(self, server: str, key: str | None = None, **settings: Any) -> None:
        super().__init__(**_settings(server, key, settings))
        self.wait: Callable[[float], object] = time.sleep

    def ask(self, shape: type[A], path: str, query: Any, **body: Any) -> A:
        request = self.build_request("POST" if body else "GET", path, params=query, **body)
        flow = tries(shape)
        answer = next(flow)
        while isinstance(answer, float):
            self.wait(answer)
            try:
                answer = flow.send(self.send(request))
            except httpx.RequestError as error:
                answer = flow.send(error)
        return answer

    def predict(self, image: Image, **query: Unpack[PredictOptions]) -> PredictResponse:
        return self.ask(PredictResponse, "/predict", query, content=_bytes(image))

    def predict_all(
        self, images: Iterable[Image], **query: Unpack[PredictOptions]
    ) -> list[PredictResponse | Problem]:
        return self.ask(Results[PredictResponse], "/predict", query, json=_json(images)).results

    def embed(self, image: Image, normalize: bool = False, **query: Unpack[Which]) -> EmbedResponse:
        return self.ask(EmbedResponse, "/embed", {"normalize": normalize, **query}, content=_bytes(image))

    def explain(self, image: Image, **query: Unpack[ExplainOptions]) -> Explanation:
        return self.ask(Explanation, "/explain", {"format": "json", **query}, content=_bytes(image))

    def health(self) -> Health:
        return self.ask(Health, "/health", {})


class AsyncClient(httpx.AsyncClient):
    def __init__(self, server: str, key: str | None = None, **settings: Any) -> None:
        super().__init__(**_settings(server, key, settings))
        self.wait: Callable[[float], Awaitable[object]] = asyncio.sleep

    async def ask(self, shape: type[A], path: str, query: Any, **body: Any) -> A:
        request = self.build_request("POST" if body else "GET", path, params=query, **body)
        flow = tries(shape)
        answer = next(flow)
        while isinstance(answer, float):
            await self.wait(answer)
            try:
                answer = flow.send(await self.send(request))
            except httpx.RequestError as error:
                answer = flow.send(error)
        return answer

    async def predict(self, image: Image, **query: Unpack[PredictOptions]) -> PredictResponse:
        return await self.ask(PredictResponse, "/predict", query, content=_bytes(image))

    async def predict_all(self, images: Iterable[Image], **query: Unpack[PredictOptions]) -> list[Each]:
        return (await self.ask(Results[PredictResponse], "/predict", query, json=_json(images))).results

    async def embed(self, image: Image, normalize: bool = False, **query: Unpack[Which]) -> EmbedResponse:
        return await self.ask(
            EmbedResponse, "/embed", {"normalize": normalize, **query}, content=_bytes(image)
        )

    async def explain(self, image: Image, **query: Unpack[ExplainOptions]) -> Explanation:
        return await self.ask(Explanation, "/explain", {"format": "json", **query}, content=_bytes(image))

    async def health(self) -> Health:
        return await self.ask(Health, "/health", {})
