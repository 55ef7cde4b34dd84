"""Serve with mosec: two processes decode, one runs batches."""

from typing import Any

import mosec

from benchmarks.peers.network import Network, Pixels, pixels


class Decoder(mosec.Worker):
    def deserialize(self, data: bytes) -> bytes:
        return data

    def forward(self, data: bytes) -> Pixels:
        return pixels(data)


class Runner(mosec.Worker):
    def __init__(self) -> None:
        super().__init__()
        self._network = Network()

    def forward(self, data: list[Pixels]) -> list[dict[str, Any]]:
        return self._network(data)


if __name__ == "__main__":
    server = mosec.Server()
    server.append_worker(Decoder, num=2, route="/predict")
    server.append_worker(Runner, num=1, max_batch_size=16, max_wait_time=5, route="/predict")
    server.run()
