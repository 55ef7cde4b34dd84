"""The steps of every inference request: find the model, admit, set a deadline, infer the images."""

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
    """The model, the admission and the deadline of one inference request.

    `name` and `version` default to the default model and its newest version; `timeout_ms` is the client's
    own limit. The constructor raises UnknownModel, InvalidRequest and NotReady.
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
        self._started = math.inf
        self._deadline = asyncio.timeout(None)

    @asynccontextmanager
    async def admitted(self, images_each: int = 1) -> AsyncIterator[Permit]:
        """Keep the model in use, and yield an empty permit.

        The body counts as it arrives, images when the caller acquires them, each as `images_each`: its ten
        crops, or all of its occlusions. Raises Overloaded and InvalidRequest, and DeadlineExceeded if the
        block outlasts the deadline.
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
        """Start the deadline. Call it when the body has been read, so that a slow upload does not count."""
        self._started = asyncio.get_running_loop().time()
        self._deadline.reschedule(self._started + self.timeout)

    def shorten_deadline(self, timeout: float) -> None:
        """Apply the Open Inference Protocol's timeout, in s from `start_deadline`; ignored if longer."""
        if timeout < self.timeout:
            self.timeout = timeout
            self._deadline.reschedule(self._started + timeout)


async def infer_each(
    files: Sequence[bytes], infer: Callable[[bytes], Awaitable[T]], slots: asyncio.Semaphore
) -> list[T | ImageError]:
    """Infer every image, as many at a time as `slots` permits; return an ImageError for an unusable one.

    Any other failure cancels the remaining images and is raised.
    """

    async def infer_one(data: bytes) -> T | ImageError:
        try:
            async with slots:
                return await infer(data)
        except ImageError as error:
            return error.with_traceback(None)  # the traceback would keep the decoded pixels alive

    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(infer_one(data)) for data in files]
    except BaseExceptionGroup as errors:
        raise errors.exceptions[0] from None
    return [task.result() for task in tasks]
