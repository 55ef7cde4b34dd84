"""Answers about picture files without HTTP, by the service's own engine, or with it, by a server's."""

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Final, Literal

from alexnet_client.schemas import PredictResponse, Problem
from contract.limits import usable_cores
from contract.picture import ImageError
from service.cli.inputs import File, Unreadable
from service.errors import BodyTooLarge, InvalidRequest, ModelError
from service.inference.engine import running_engine
from service.inference.tasks import DEFAULT_TOP_K, classify
from service.models.cuda import GpuOptions
from service.models.default_model import configured, default_name, require_file
from service.models.discovery import normal, places
from service.models.loading import Load, LoadResult, read
from service.models.repository import Repository
from service.models.session import load_model
from service.observability.metrics import Metrics
from service.problems import make_problem, problem_of
from service.settings import Settings

Crops = Literal[1, 10]
Ask = Callable[[bytes], Awaitable[PredictResponse | Problem]]

SERVER_AT_ONCE: Final = 8  # requests to a server
# Codes of a server's that speak of one image; after any other the rest would fare no better.
OF_ONE_IMAGE: Final = {"unsupported_image", "invalid_image", "too_large", "timeout", "deadline", "internal"}
OF_THE_COMMAND: Final = {"invalid_request", "not_found"}


class Usage(Exception):
    """The command asks for what there is not."""


class Failed(Exception):
    """Nothing more can be answered."""


def find_models(settings: Settings, model: str | None) -> list[LoadResult]:
    """Every version of the model: of that file, of that name in the folder MODELS, or of the default one
    there. Raises Usage, SettingsError and ModelError.
    """
    if model is not None and _names_a_file(model):
        if not Path(model).exists():
            raise Usage(f"there is no model file {model}")
        settings = settings.model_copy(update={"model": Path(model)})
    elif model is not None:
        settings, model = settings.model_copy(update={"model": None}), normal(model)
    else:
        require_file(settings)
    wanted = places(settings)
    if names := sorted({place.name for place in wanted if place.name}):
        name = default_name(configured(settings), names) if model is None else model
        if name is None:
            raise Usage(f"name one of the models with --model: {', '.join(names)}")
        if name not in names:
            raise Usage(
                f"there is no model {name} in {settings.models}; the models there: {', '.join(names)}"
            )
        wanted = [place for place in wanted if place.name == name]
    if not wanted:
        raise Usage(f"there is no model in {settings.models}; name a model file with --model")
    found = [read(place, _load(settings)) for place in wanted]
    if not any(one.model for one in found):
        raise ModelError("; ".join(one.error or "" for one in found))
    return found


def _names_a_file(model: str) -> bool:
    """And not a model in MODELS, whose name may have a dot in it."""
    path = Path(model)
    return model.endswith(".onnx") or "/" in model or (path.suffix != "" and path.is_file())


def _load(settings: Settings) -> Load:
    threads = settings.threads or usable_cores()
    return partial(load_model, device=settings.device, threads=threads, gpu=GpuOptions.of(settings))


@asynccontextmanager
async def here(
    settings: Settings, found: list[LoadResult], top_k: int | None, crops: Crops
) -> AsyncIterator[Ask]:
    """The engine that the service has, without a server around it. Raises Usage."""
    metrics = Metrics()
    repository = Repository(settings, found, _load(settings), metrics)
    async with running_engine(settings, repository, settings.threads or usable_cores(), metrics) as engine:
        served = next(repository.served)
        classes = len(served.model.manifest.classes)
        if (top_k or 1) > classes:
            raise Usage(f"top_k is {top_k}; this model has {classes} classes")

        async def ask(data: bytes) -> PredictResponse | Problem:
            try:
                return await classify(engine, served, data, top_k or min(DEFAULT_TOP_K, classes), crops)
            except ImageError as error:
                return problem_of(error)
            except FloatingPointError as error:
                return make_problem(500, "internal", str(error))

        yield ask


@asynccontextmanager
async def by_server(
    server: str, key: str | None, model: str | None, top_k: int | None, crops: Crops
) -> AsyncIterator[Ask]:
    """Raises Failed and Usage, also from `ask`."""
    try:
        from alexnet_client.client import AsyncClient, ClientError, PredictOptions  # alone take httpx
    except ImportError:
        raise Failed("--server needs httpx: pip install httpx (the extra `client`)") from None
    query = PredictOptions(crops=crops)
    if model is not None:
        query["model"] = model
    if top_k is not None:
        query["top_k"] = top_k
    async with AsyncClient(server, key) as client:

        async def ask(data: bytes) -> PredictResponse | Problem:
            try:
                return await client.predict(data, **query)
            except ClientError as error:
                if error.code in OF_ONE_IMAGE:
                    return make_problem(error.status, error.code, error.detail)
                raise (Usage if error.code in OF_THE_COMMAND else Failed)(error.detail) from None

        yield ask


async def answers(
    files: Iterable[File], ask: Ask, at_once: int, limit: int | None
) -> AsyncGenerator[tuple[File, PredictResponse | Problem], None]:
    """In the order of the files, `at_once` of them under way. Raises what `ask` raises."""
    waiting: deque[tuple[File, asyncio.Task[PredictResponse | Problem]]] = deque()
    try:
        for file in files:
            waiting.append((file, asyncio.create_task(_answer(file, ask, limit))))
            if len(waiting) == at_once:
                yield waiting[0][0], await waiting[0][1]
                waiting.popleft()
        while waiting:
            yield waiting[0][0], await waiting[0][1]
            waiting.popleft()
    finally:
        for _file, task in waiting:
            task.cancel()
        await asyncio.gather(*(task for _file, task in waiting), return_exceptions=True)


async def _answer(file: File, ask: Ask, limit: int | None) -> PredictResponse | Problem:
    try:
        data = await asyncio.to_thread(file.read, limit)
    except Unreadable as error:
        return make_problem(422, "unreadable_file", str(error))
    except (InvalidRequest, BodyTooLarge) as error:
        return problem_of(error)
    return await ask(data)
