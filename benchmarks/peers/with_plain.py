"""Serve with a naive FastAPI endpoint: each thread decodes, crops and runs one image at a time."""

import os
import socket
from typing import Any

import uvicorn
from fastapi import FastAPI, Request
from starlette.concurrency import run_in_threadpool

from benchmarks.peers.network import Network, pixels

app = FastAPI()
network = Network()


@app.post("/predict")
async def predict(request: Request) -> dict[str, Any]:
    body = await request.body()
    (answer,) = await run_in_threadpool(lambda: network([pixels(body)]))
    return answer


if __name__ == "__main__":
    listener = socket.create_server(("127.0.0.1", int(os.environ["PORT"])), backlog=2048)
    uvicorn.Server(uvicorn.Config(app, log_level="warning")).run(sockets=[listener])
