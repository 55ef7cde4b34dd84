"""A model under its served name and version, with a count of its users so that it can be freed."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Self

from alexnet_client.schemas import ModelName
from service.models.session import Model


class ServingModel:
    """A loaded model under the name and version that requests give."""

    def __init__(self, model: Model, name: str, version: int) -> None:
        self.model = model
        self.name = ModelName(name=name, version=version, sha256=model.sha256)
        self._users = 0
        self._unused = asyncio.Event()
        self._unused.set()

    @contextmanager
    def use(self) -> Iterator[Self]:
        self._users += 1
        self._unused.clear()
        try:
            yield self
        finally:
            self._users -= 1
            if not self._users:
                self._unused.set()

    async def wait_until_unused(self) -> None:
        await self._unused.wait()
