"""Serve with Ray Serve: one replica that decodes in threads and runs batches of the queued images."""

import asyncio
import os
import time
from typing import Any

import ray
from ray import serve
from starlette.requests import Request

from benchmarks.peers.network import Network, Pixels, pixels


@serve.deployment(max_ongoing_requests=100)
class Peer:
    def __init__(self) -> None:
        self._network = Network()

    async def __call__(self, request: Request) -> Any:
        return await self._batched(await asyncio.to_thread(pixels, await request.body()))

    @serve.batch(max_batch_size=16, batch_wait_timeout_s=0.005)
    async def _batched(self, batch: list[Pixels]) -> list[dict[str, Any]]:
        return await asyncio.to_thread(self._network, batch)


if __name__ == "__main__":
    ray.init(include_dashboard=False, log_to_driver=False)
    serve.start(http_options={"host": "127.0.0.1", "port": int(os.environ["PORT"])})
    serve.run(Peer.bind(), route_prefix="/predict")  # type: ignore[attr-defined]
    while True:
        time.sleep(1)
