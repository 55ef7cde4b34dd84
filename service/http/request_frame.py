"""What every request for inference shares: its model, its place in the queue, its deadline, its images."""

import asyncio
import math
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import TypeVar

from starlette.requests import Request

from contract.errors import ImageError
from service.errors import DeadlineExceeded
from service.http.body.read import announced_bytes
from service.http.scope import KEY, engine_of
from service.inference.admission import Permit
from service.models.serving import ServingModel
from service.settings import Settings

T = TypeVar("T")


class RequestFrame:
    """Of a request to the model `name` and `version`, the default model's newest version unless given.

    `timeout_ms` is the client's limit, if it has one. Raises UnknownModel, InvalidRequest and NotReady.
    """

    def __init__(
        self, request: Request, name: str | None, version: int | None, timeout_ms: float | None
    ) -> None:
        self.request = request
        self.settings: Settings = request.app.state.settings
        self.engine = engine_of(request.scope)
        self.engine.require_worker()
        self.served: ServingModel = self.engine.repository.find(name, version)
        self.timeout = min(self.settings.request_timeout_s, (timeout_ms or math.inf) / 1000)
        self._began = math.inf
        self._deadline = asyncio.timeout(None)

    @asynccontextmanager
    async def admitted(self, images_each: int = 1) -> AsyncIterator[Permit]:
        """Hold the model and a place for the request. Raises Overloaded, BodyTooLarge and DeadlineExceeded.

        `images_each` is what one image of the request costs, crops and occlusions counted.
        """
        size = announced_bytes(self.request, self.settings.max_body_bytes)
        admission = self.engine.admission.admit(size, images_each, self.request.scope[KEY])
        with self.served.use(), admission as permit:
            try:
                async with self._deadline:
                    yield permit
            except TimeoutError:
                raise DeadlineExceeded(f"no answer within {self.timeout:g} s") from None

    def start_deadline(self) -> None:
        """Start the time of the request, once its body is there."""
        self._began = asyncio.get_running_loop().time()
        self._deadline.reschedule(self._began + self.timeout)

    def shorten_deadline(self, timeout: float) -> None:
        """Take a limit that the body names, in seconds from `start_deadline`, if it is shorter."""
        if timeout < self.timeout:
            self.timeout = timeout
            self._deadline.reschedule(self._began + timeout)


async def infer_each(
    files: Sequence[bytes], infer: Callable[[bytes], Awaitable[T]], turns: asyncio.Semaphore
) -> list[T | ImageError]:
    """Infer every image, `turns` of them at once; those that cannot be used are returned as errors.

    If anything else fails, none goes on by itself, and that is raised.
    """

    async def one(data: bytes) -> T | ImageError:
        try:
            async with turns:
                return await infer(data)
        except ImageError as error:
            return error.with_traceback(None)  # its frames hold what was decoded of the image

    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(one(data)) for data in files]
    except BaseExceptionGroup as errors:
        raise errors.exceptions[0] from None
    return [task.result() for task in tasks]
