"""Synchronous and asynchronous clients: `pip install ./alexnet_client` in a checkout, then

    from alexnet_client import Client

    with Client("http://127.0.0.1:8000") as client:
        print(client.predict("photo.jpg", top_k=1).predictions[0].label)

AsyncClient is the same with `async with` and `await`. Both are httpx clients and take httpx's settings.
Images are paths or the bytes of a file. Every method raises ClientError when the server reports a problem
or does not answer; transient failures are retried first (see `alexnet_client.retry`).
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
from alexnet_client.retry import retry_flow
from alexnet_client.schemas import EmbedResponse, Explanation, Health, PredictResponse, Problem, Results

PredictResult = PredictResponse | Problem
Image = bytes | str | Path
T = TypeVar("T", bound=BaseModel)


class ModelOptions(TypedDict, total=False):
    """The model that answers; by default the server's default model, newest version."""

    model: str
    version: int


class PredictOptions(ModelOptions, total=False):
    """Options of `predict` and `predict_all`; for the last two the model's file must have `trust`.

    `top_k` is the number of labels, `crops` how many crops are averaged. With `coverage` (0.5 to 0.99)
    responses have a prediction `set`. An image whose `unfamiliarity` is above `unknown_above` (0 to 1; by
    default the limit of the model's file) is not `known`.
    """

    top_k: int
    crops: Literal[1, 10]
    coverage: float
    unknown_above: float


class ExplainOptions(ModelOptions, total=False):
    """Options of `explain`: the label to explain, by default the most probable one."""

    label: str


def _settings(server: str, key: str | None, settings: dict[str, Any]) -> dict[str, Any]:
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    return {"base_url": server, "headers": headers, "timeout": 60} | settings


def _bytes(image: Image) -> bytes:
    return image if isinstance(image, bytes) else Path(image).read_bytes()


def _json(images: Iterable[Image]) -> dict[str, list[str]]:
    return {"images": [b64encode(_bytes(image)).decode() for image in images]}


class Client(httpx.Client):
    """Synchronous client. `key` is the API key; `settings` are those of httpx.Client."""

    def __init__(self, server: str, key: str | None = None, **settings: Any) -> None:
        super().__init__(**_settings(server, key, settings))
        self.wait: Callable[[float], object] = time.sleep

    def ask(self, schema: type[T], path: str, query: Any, **body: Any) -> T:
        """Send a request, retry transient failures and parse the response. Raises ClientError."""
        request = self.build_request("POST" if body else "GET", path, params=query, **body)
        flow = retry_flow(schema)
        step = next(flow)
        while isinstance(step, float):
            self.wait(step)
            try:
                step = flow.send(self.send(request))
            except httpx.RequestError as error:
                step = flow.send(error)
        return step

    def predict(self, image: Image, **query: Unpack[PredictOptions]) -> PredictResponse:
        """Classify one image."""
        return self.ask(PredictResponse, "/predict", query, content=_bytes(image))

    def predict_all(self, images: Iterable[Image], **query: Unpack[PredictOptions]) -> list[PredictResult]:
        """Classify several images in one request; an unusable image gets a Problem."""
        return self.ask(Results[PredictResponse], "/predict", query, json=_json(images)).results

    def embed(self, image: Image, normalize: bool = False, **query: Unpack[ModelOptions]) -> EmbedResponse:
        """Return the fc7 features of one image; `normalize` scales them to length 1."""
        return self.ask(EmbedResponse, "/embed", {"normalize": normalize, **query}, content=_bytes(image))

    def explain(self, image: Image, **query: Unpack[ExplainOptions]) -> Explanation:
        """Return the occlusion map of one image."""
        return self.ask(Explanation, "/explain", {"format": "json", **query}, content=_bytes(image))

    def health(self) -> Health:
        """Return the server's health."""
        return self.ask(Health, "/health", {})


class AsyncClient(httpx.AsyncClient):
    """Asynchronous client. `key` is the API key; `settings` are those of httpx.AsyncClient."""

    def __init__(self, server: str, key: str | None = None, **settings: Any) -> None:
        super().__init__(**_settings(server, key, settings))
        self.wait: Callable[[float], Awaitable[object]] = asyncio.sleep

    async def ask(self, schema: type[T], path: str, query: Any, **body: Any) -> T:
        """Send a request, retry transient failures and parse the response. Raises ClientError."""
        request = self.build_request("POST" if body else "GET", path, params=query, **body)
        flow = retry_flow(schema)
        step = next(flow)
        while isinstance(step, float):
            await self.wait(step)
            try:
                step = flow.send(await self.send(request))
            except httpx.RequestError as error:
                step = flow.send(error)
        return step

    async def predict(self, image: Image, **query: Unpack[PredictOptions]) -> PredictResponse:
        """Classify one image."""
        return await self.ask(PredictResponse, "/predict", query, content=_bytes(image))

    async def predict_all(
        self, images: Iterable[Image], **query: Unpack[PredictOptions]
    ) -> list[PredictResult]:
        """Classify several images in one request; an unusable image gets a Problem."""
        return (await self.ask(Results[PredictResponse], "/predict", query, json=_json(images))).results

    async def embed(
        self, image: Image, normalize: bool = False, **query: Unpack[ModelOptions]
    ) -> EmbedResponse:
        """Return the fc7 features of one image; `normalize` scales them to length 1."""
        return await self.ask(
            EmbedResponse, "/embed", {"normalize": normalize, **query}, content=_bytes(image)
        )

    async def explain(self, image: Image, **query: Unpack[ExplainOptions]) -> Explanation:
        """Return the occlusion map of one image."""
        return await self.ask(Explanation, "/explain", {"format": "json", **query}, content=_bytes(image))

    async def health(self) -> Health:
        """Return the server's health."""
        return await self.ask(Health, "/health", {})
