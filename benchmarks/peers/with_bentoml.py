"""Serve with BentoML: adaptive batches of uploaded files, decoding and network in one process."""

import os
import sys
from pathlib import Path
from typing import Any

import bentoml

from benchmarks.peers.network import Network, pixels


@bentoml.service(workers=1, traffic={"timeout": 30})
class Peer:
    def __init__(self) -> None:
        self._network = Network()

    @bentoml.api(batchable=True, max_batch_size=16)
    def predict(self, file: list[Path]) -> list[dict[str, Any]]:
        return self._network([pixels(path.read_bytes()) for path in file])


if __name__ == "__main__":
    address = ["--host", "127.0.0.1", "--port", os.environ["PORT"]]
    command = [sys.executable, "-m", "bentoml", "serve", "benchmarks.peers.with_bentoml:Peer", *address]
    os.execv(sys.executable, command)  # noqa: S606
