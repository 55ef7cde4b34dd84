"""Serve with LitServe: two processes that each decode and run batches of the queued images."""

import os
from typing import Any

import litserve
from fastapi import Request

from benchmarks.peers.network import Network, Pixels, pixels


class Api(litserve.LitAPI):
    def setup(self, device: str) -> None:
        self._network = Network(threads=1)

    def decode_request(self, request: Request) -> Pixels:
        return pixels(request["file"].file.read())

    def batch(self, inputs: list[Pixels]) -> list[Pixels]:
        return inputs

    def predict(self, batch: list[Pixels]) -> list[dict[str, Any]]:
        return self._network(batch)

    def unbatch(self, output: list[dict[str, Any]]) -> list[dict[str, Any]]:
        return output

    def encode_response(self, output: dict[str, Any]) -> dict[str, Any]:
        return output


if __name__ == "__main__":
    api = Api(max_batch_size=16, batch_timeout=0.005, api_path="/predict")
    server = litserve.LitServer(api, accelerator="cpu", workers_per_device=2)
    port = int(os.environ["PORT"])
    server.run(host="127.0.0.1", port=port, log_level="warning", generate_client_file=False)
