"""Generate load: one process, one thread, keep-alive connections, requests prepared in advance.

    python -m benchmarks.support.load http://127.0.0.1:8000 --images FOLDER --connections 32 --seconds 10
    python -m benchmarks.support.load http://127.0.0.1:8000 --images FOLDER --rate 120 --seconds 10

Closed loop: every connection sends its next request when the last one is answered. Open loop (`--rate`):
requests are sent at fixed times whether or not responses come, each on an idle connection or on a new one.
Latency counts from the time at which the request was due, so that a stalled server cannot hide it.
Prints JSON; `client_core_ms` is the CPU time of the generator per request.
"""

import argparse
import asyncio
import base64
import json
import math
import os
import time
from collections import Counter, deque
from itertools import cycle
from pathlib import Path
from typing import Any, cast
from urllib.parse import urlsplit

import uvloop

from benchmarks.support.images import find_photographs
from contract.picture import decode
from contract.preprocess import centre_crop
from contract.recipe import DEFAULT_RECIPE

# v2: an image file in JSON of the Open Inference Protocol; pixels: a crop, as binary data after the JSON
FORMS = ("bare", "ten crops", "multipart", "v2", "pixels")
MAX_CONNECTIONS = 1000  # in the open loop; a request due while all are busy counts as `unsent`
# How long a connection may have been idle, in s: below the server's limit, so that a request still arrives.
MAX_IDLE_S = 0.8 * float(os.environ.get("KEEP_ALIVE_TIMEOUT_S") or 5)
FINAL_WAIT_S = 20.0  # for requests in flight at the end; after it, they count as `unanswered`


def message(photo: bytes, form: str, model: str = "alexnet") -> tuple[str, dict[str, str], bytes]:
    """Return path, headers and body in one of FORMS; the path of v2 names the `model`."""
    if form == "multipart":
        edge = "----------------load"
        head = (
            f'--{edge}\r\nContent-Disposition: form-data; name="file"; filename="photo.jpg"\r\n'
            f"Content-Type: image/jpeg\r\n\r\n"
        )
        body = head.encode() + photo + f"\r\n--{edge}--\r\n".encode()
        return "/predict", {"Content-Type": f"multipart/form-data; boundary={edge}"}, body
    if form == "v2":
        data = [base64.b64encode(photo).decode()]
        tensor = {"name": "encoded", "shape": [1], "datatype": "BYTES", "data": data}
        body = json.dumps({"inputs": [tensor]}).encode()
        return f"/v2/models/{model}/infer", {"Content-Type": "application/json"}, body
    if form == "pixels":
        picture = decode(photo, DEFAULT_RECIPE, max_pixels=10**8)
        crop = centre_crop(picture, DEFAULT_RECIPE)
        images = {"name": "images", "shape": [1, *crop.shape], "datatype": "UINT8"}
        head = json.dumps({"inputs": [images | {"parameters": {"binary_data_size": crop.nbytes}}]})
        headers = {
            "Content-Type": "application/octet-stream",
            "Inference-Header-Content-Length": str(len(head)),
        }
        return f"/v2/models/{model}/infer", headers, head.encode() + crop.tobytes()
    return "/predict?crops=10" if form == "ten crops" else "/predict", {"Content-Type": "image/jpeg"}, photo


def request(photo: bytes, form: str, model: str) -> bytes:
    """Return a complete HTTP/1.1 request."""
    path, headers, body = message(photo, form, model)
    lines = [f"{name}: {value}\r\n" for name, value in headers.items()]
    head = f"POST {path} HTTP/1.1\r\nHost: load\r\nContent-Length: {len(body)}\r\n{''.join(lines)}\r\n"
    return head.encode() + body


class Connection(asyncio.Protocol):
    """Sends one request at a time; reports each response, or the end of the connection, to the load."""

    transport: asyncio.Transport

    def __init__(self, load: "Load") -> None:
        self.load = load
        self.received = bytearray()
        self.due: float | None = None  # when the request in flight was due
        self.idle_since = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)  # uvloop's transport is not a subclass

    def send(self, payload: bytes, due: float) -> None:
        self.due = due
        self.transport.write(payload)

    def data_received(self, data: bytes) -> None:
        self.received += data
        end = self.received.find(b"\r\n\r\n")
        if end < 0 or self.due is None:
            return
        head = bytes(self.received[:end]).lower()
        length = head.find(b"content-length:")
        size = int(head[length + 15 :].split(b"\r\n", 1)[0]) if length >= 0 else 0
        chunked = b"transfer-encoding: chunked" in head
        if len(self.received) < end + 4 + size or (chunked and not self.received.endswith(b"0\r\n\r\n")):
            return
        self.received.clear()
        due, self.due = self.due, None
        # After an early refusal, the rest of the request is still in the buffer: the connection cannot be
        # reused.
        unusable = b"connection: close" in head or self.transport.get_write_buffer_size() > 0
        self.load.answered(self, int(head[9:12]), due, unusable)
        if unusable:
            self.transport.abort()

    def connection_lost(self, _error: Exception | None) -> None:
        if self.due is None:
            self.load.forget(self)
        else:
            due, self.due = self.due, None
            self.load.answered(self, 0, due, unusable=True)


class Load:
    """Sends requests and counts responses. Status 0 is a connection that broke without a response."""

    def __init__(self, host: str, port: int, payloads: list[bytes], closed: bool) -> None:
        self.address = (host, port)
        self.payloads = cycle(payloads)
        self.closed = closed
        self.idle: deque[Connection] = deque()
        self.open = 0  # connections
        self.statuses: Counter[int] = Counter()
        self.latencies: list[float] = []  # s, of responses 200
        self.refusals: list[float] = []  # s, of responses 429
        self.sent_by = 0.0  # time.monotonic when sending ended
        self.began = self.ends = math.inf  # only responses between the two are counted
        self.unsent = 0
        self.tasks: set[asyncio.Task[None]] = set()
        self.in_flight = 0

    async def connect(self, due: float) -> None:
        """Open a connection and send a first request on it."""
        self.open += 1
        try:
            _transport, connection = await asyncio.get_running_loop().create_connection(
                lambda: Connection(self), *self.address
            )
        except OSError:
            self.open -= 1
            self.in_flight -= 1
            self.count(0, due)
            return
        connection.send(next(self.payloads), due)

    def forget(self, connection: Connection) -> None:
        """Forget an idle connection that was closed, by us or by the server."""
        if connection in self.idle:
            self.idle.remove(connection)
            self.open -= 1

    def start(self, due: float) -> None:
        if self.idle and time.perf_counter() - self.idle[-1].idle_since < MAX_IDLE_S:
            self.in_flight += 1
            # The last used one, so that the server can close the others.
            self.idle.pop().send(next(self.payloads), due)
        elif self.open < MAX_CONNECTIONS:
            self.in_flight += 1
            task = asyncio.get_running_loop().create_task(self.connect(due))
            self.tasks.add(task)
            task.add_done_callback(self.tasks.discard)
        elif due >= self.began:
            self.unsent += 1

    def answered(self, connection: Connection, status: int, due: float, unusable: bool) -> None:
        self.in_flight -= 1
        self.open -= unusable
        if not unusable:
            connection.idle_since = time.perf_counter()
            self.idle.append(connection)
        self.count(status, due)
        if self.closed and time.perf_counter() < self.ends:
            self.start(time.perf_counter())

    def count(self, status: int, due: float) -> None:
        now = time.perf_counter()
        # Closed loop: count responses within the time. Open loop: count requests that were due within it.
        if not self.began <= (now if self.closed else due) < self.ends:
            return
        self.statuses[status] += 1
        if status == 200:
            self.latencies.append(now - due)
        elif status == 429:
            self.refusals.append(now - due)

    async def run(self, connections: int, rate: float, warm_up: float, seconds: float) -> dict[str, Any]:
        start = time.perf_counter()
        self.began, self.ends = start + warm_up, start + warm_up + seconds
        if self.closed:
            for _connection in range(connections):
                self.start(start)
            await asyncio.sleep(warm_up)
            cpu = time.process_time()
            await asyncio.sleep(self.ends - time.perf_counter())
            cpu = time.process_time() - cpu
        else:
            cpu = time.process_time()
            for number in range(int(rate * (warm_up + seconds))):
                due = start + number / rate
                if (wait := due - time.perf_counter()) > 0:
                    await asyncio.sleep(wait)
                self.start(due)
            cpu = (time.process_time() - cpu) * seconds / (warm_up + seconds)
        self.sent_by = time.monotonic()
        deadline = time.perf_counter() + FINAL_WAIT_S
        while self.in_flight and time.perf_counter() < deadline:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        return self.summary(seconds, cpu)

    def summary(self, seconds: float, cpu: float) -> dict[str, Any]:
        times, refusals = ([1000 * s for s in sorted(values)] for values in (self.latencies, self.refusals))
        counted = sum(self.statuses.values())
        return {
            "images_per_s": len(times) / seconds,
            "p50_ms": percentile(times, 0.50),
            "p95_ms": percentile(times, 0.95),
            "p99_ms": percentile(times, 0.99),
            "max_ms": percentile(times, 1.0),
            "times_ms": times,
            "p50_refused_ms": percentile(refusals, 0.50),
            "p99_refused_ms": percentile(refusals, 0.99),
            "offered": counted + self.in_flight,
            "sent_by": self.sent_by,
            "errors": {str(status): n for status, n in sorted(self.statuses.items()) if status != 200},
            "unsent": self.unsent,
            "unanswered": self.in_flight,
            "client_core_ms": 1000 * cpu / max(1, counted),
        }


def percentile(times: list[float], fraction: float) -> float | None:
    """Return the percentile (nearest rank) of sorted times; None if there are none."""
    return times[max(0, math.ceil(fraction * len(times)) - 1)] if times else None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("url")
    parser.add_argument("--images", type=Path, required=True, help="folder of JPEG files, sent in turn")
    parser.add_argument("--connections", type=int, default=1, help="connections of the closed loop")
    parser.add_argument("--rate", type=float, default=0.0, help="requests/s of the open loop")
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--warm-up", type=float, default=2.0, help="s before anything is counted")
    parser.add_argument("--form", choices=FORMS, default="bare", help="form of the body")
    parser.add_argument("--model", default="alexnet", help="name in the path of v2")
    args = parser.parse_args()
    url = urlsplit(args.url)
    payloads = [request(file.read_bytes(), args.form, args.model) for file in find_photographs(args.images)]

    async def run() -> dict[str, Any]:
        load = Load(url.hostname or "127.0.0.1", url.port or 80, payloads, closed=not args.rate)
        return await load.run(args.connections, args.rate, args.warm_up, args.seconds)

    print(json.dumps(uvloop.run(run())))


if __name__ == "__main__":
    main()
