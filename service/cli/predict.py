"""Classify picture files with a local engine, or with a server over HTTP."""

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final, Literal

from alexnet_client.schemas import PredictResponse, Problem
from contract.limits import usable_cores
from contract.picture import ImageError
from service.cli.inputs import File, UnreadableFile
from service.errors import BodyTooLarge, InvalidRequest, ModelError
from service.inference.engine import running_engine
from service.inference.tasks import check_options, classify
from service.models.cuda import GpuOptions
from service.models.default_model import configured_default, default_name, require_file
from service.models.discovery import model_locations, normalize_name
from service.models.loading import Load, LoadResult, read
from service.models.repository import Repository
from service.models.session import load_model
from service.observability.metrics import Metrics
from service.problems import make_problem, problem_of
from service.settings import Settings

Crops = Literal[1, 10]
Result = PredictResponse | Problem
Predict = Callable[[bytes], Awaitable[Result]]

MAX_SERVER_REQUESTS: Final = 8  # at the same time
# Problem codes of a server that concern one image only; any other would meet the other images too.
IMAGE_CODES: Final = {"unsupported_image", "invalid_image", "too_large", "timeout", "deadline", "internal"}
USAGE_CODES: Final = {"invalid_request", "not_found"}


@dataclass(frozen=True)
class PredictOptions:
    """What the command line asks of every picture; None leaves a parameter out."""

    top_k: int | None = None
    crops: Crops = 1
    coverage: float | None = None
    unknown_above: float | None = None
    require_known: bool = False


class UsageError(Exception):
    """The command line names something that does not exist or is invalid."""


class PredictionFailed(Exception):
    """No further file can be classified."""


def find_models(settings: Settings, model: str | None) -> list[LoadResult]:
    """Load every version of a model: a file, a name in the folder MODELS, or the default model there.

    Raises UsageError, SettingsError and ModelError.
    """
    if model is not None and _names_a_file(model):
        if not Path(model).exists():
            raise UsageError(f"there is no model file {model}")
        settings = settings.model_copy(update={"model": Path(model)})
    elif model is not None:
        settings, model = settings.model_copy(update={"model": None}), normalize_name(model)
    else:
        require_file(settings)
    locations = model_locations(settings)
    if names := sorted({location.name for location in locations if location.name}):
        name = default_name(configured_default(settings), names) if model is None else model
        if name is None:
            raise UsageError(f"name one of the models with --model: {', '.join(names)}")
        if name not in names:
            raise UsageError(
                f"there is no model {name} in {settings.models}; the models there: {', '.join(names)}"
            )
        locations = [location for location in locations if location.name == name]
    if not locations:
        raise UsageError(f"there is no model in {settings.models}; name a model file with --model")
    results = [read(location, _load(settings)) for location in locations]
    if not any(result.model for result in results):
        raise ModelError("; ".join(result.error or "" for result in results))
    return results


def _names_a_file(model: str) -> bool:
    """Return whether `model` is a file rather than a model in MODELS, whose name may contain a dot."""
    path = Path(model)
    return model.endswith(".onnx") or "/" in model or (path.suffix != "" and path.is_file())


def _load(settings: Settings) -> Load:
    threads = settings.threads or usable_cores()
    return partial(load_model, device=settings.device, threads=threads, gpu=GpuOptions.of(settings))


@asynccontextmanager
async def local_engine(
    settings: Settings, models: list[LoadResult], options: PredictOptions
) -> AsyncIterator[Predict]:
    """Run the service's engine without a server; yield its predict function. Raises UsageError."""
    metrics = Metrics()
    repository = Repository(settings, models, _load(settings), metrics)
    async with running_engine(settings, repository, settings.threads or usable_cores(), metrics) as engine:
        served = next(repository.served)
        try:
            checked = check_options(
                served, options.top_k, options.crops, options.coverage, options.unknown_above
            )
        except InvalidRequest as error:
            raise UsageError(str(error)) from None
        if options.require_known and checked.unknown_above is None:
            raise UsageError(
                f"the file of model {served.name.name} has no unfamiliarity, so no picture is known; "
                "leave out --require-known"
            )

        async def predict(data: bytes) -> Result:
            try:
                return await classify(engine, served, data, checked)
            except ImageError as error:
                return problem_of(error)
            except FloatingPointError as error:
                return make_problem(500, "internal", str(error))

        yield predict


@asynccontextmanager
async def remote_server(
    server: str, key: str | None, model: str | None, options: PredictOptions
) -> AsyncIterator[Predict]:
    """Connect to a server; yield its predict function. Both raise PredictionFailed and UsageError."""
    try:
        from alexnet_client import client as alexnet  # needs httpx
    except ImportError:
        raise PredictionFailed("--server needs httpx: pip install httpx (the extra `client`)") from None
    query = alexnet.PredictOptions(crops=options.crops)
    if model is not None:
        query["model"] = model
    if options.top_k is not None:
        query["top_k"] = options.top_k
    if options.coverage is not None:
        query["coverage"] = options.coverage
    if options.unknown_above is not None:
        query["unknown_above"] = options.unknown_above
    async with alexnet.AsyncClient(server, key) as client:

        async def predict(data: bytes) -> Result:
            try:
                response = await client.predict(data, **query)
            except alexnet.ClientError as error:
                if error.code in IMAGE_CODES:
                    return make_problem(error.status, error.code, error.detail)
                raise (UsageError if error.code in USAGE_CODES else PredictionFailed)(
                    error.detail
                ) from None
            if options.require_known and response.known is None:
                raise PredictionFailed(
                    f"the responses of {server} have no `known`, because the file of model "
                    f"{response.model.name} has no unfamiliarity; leave out --require-known"
                )
            return response

        yield predict


async def predict_files(
    files: Iterable[File], predict: Predict, concurrency: int, max_bytes: int | None
) -> AsyncGenerator[tuple[File, Result], None]:
    """Yield each file with its result, in order, with up to `concurrency` in flight.

    Raises what `predict` raises.
    """
    waiting: deque[tuple[File, asyncio.Task[Result]]] = deque()
    try:
        for file in files:
            waiting.append((file, asyncio.create_task(_predict_file(file, predict, max_bytes))))
            if len(waiting) == concurrency:
                yield waiting[0][0], await waiting[0][1]
                waiting.popleft()
        while waiting:
            yield waiting[0][0], await waiting[0][1]
            waiting.popleft()
    finally:
        for _file, task in waiting:
            task.cancel()
        await asyncio.gather(*(task for _file, task in waiting), return_exceptions=True)


async def _predict_file(file: File, predict: Predict, max_bytes: int | None) -> Result:
    try:
        data = await asyncio.to_thread(file.read, max_bytes)
    except UnreadableFile as error:
        return make_problem(422, "unreadable_file", str(error))
    except (InvalidRequest, BodyTooLarge) as error:
        return problem_of(error)
    return await predict(data)
