"""A load generator: one process, one thread, keep-alive connections, requests built beforehand.

    python -m benchmarks.support.load http://127.0.0.1:8000 --images FOLDER --connections 32 --seconds 10
    python -m benchmarks.support.load http://127.0.0.1:8000 --images FOLDER --rate 120 --seconds 10

Closed loop: every connection sends its next request when the last one is answered. Open loop (`--rate`):
requests leave at fixed times whether or not answers come, each on an idle connection or on a new one, and
latency counts from the time that the request was due, so a server that stalls cannot hide it.
Prints JSON. What it costs itself is in `client_core_ms`: its CPU time per request.
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

from benchmarks.support.images import found
from contract.picture import decode
from contract.preprocess import centre_crop
from contract.recipe import DEFAULT_RECIPE

# v2: an image file in the Open Inference Protocol's JSON; pixels: a crop of it, behind the JSON
FORMS = ("bare", "ten crops", "multipart", "v2", "pixels")
MAX_CONNECTIONS = 1000  # in the open loop; a request due while all are busy counts as `unsent`
# s that a connection may have been idle: of the server's own limit less what a request needs to arrive.
REUSE = 0.8 * float(os.environ.get("KEEP_ALIVE_TIMEOUT_S") or 5)
PATIENCE = 20.0  # s that requests under way at the end get; later ones count as `unanswered`


def message(photo: bytes, form: str, model: str = "alexnet") -> tuple[str, dict[str, str], bytes]:
    """-> path, headers and body, in one of FORMS; v2's path names the `model`."""
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
    """A whole HTTP/1.1 request."""
    path, headers, body = message(photo, form, model)
    lines = [f"{name}: {value}\r\n" for name, value in headers.items()]
    head = f"POST {path} HTTP/1.1\r\nHost: load\r\nContent-Length: {len(body)}\r\n{''.join(lines)}\r\n"
    return head.encode() + body


class Connection(asyncio.Protocol):
    """Sends one request at a time and tells the load of each answer, or of its own end."""

    transport: asyncio.Transport

    def __init__(self, load: "Load") -> None:
        self.load = load
        self.received = bytearray()
        self.due: float | None = None  # of the request under way
        self.idle_since = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)  # uvloop's own is no subclass of it

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
        # An early refusal leaves the rest of the request in our buffer: the connection is spent.
        spent = b"connection: close" in head or self.transport.get_write_buffer_size() > 0
        self.load.answered(self, int(head[9:12]), due, spent)
        if spent:
            self.transport.abort()

    def connection_lost(self, _error: Exception | None) -> None:
        if self.due is None:
            self.load.gone(self)
        else:
            due, self.due = self.due, None
            self.load.answered(self, 0, due, spent=True)


class Load:
    """What was sent and what came back. Status 0 is a connection that broke without an answer."""

    def __init__(self, host: str, port: int, payloads: list[bytes], closed: bool) -> None:
        self.address = (host, port)
        self.payloads = cycle(payloads)
        self.closed = closed
        self.idle: deque[Connection] = deque()
        self.open = 0  # connections
        self.statuses: Counter[int] = Counter()
        self.latencies: list[float] = []  # s, of 200 only
        self.refusals: list[float] = []  # s, of 429
        self.sent_by = 0.0  # time.monotonic of the end of sending
        self.began = self.ends = math.inf  # answers are counted between the two, and only those
        self.unsent = 0
        self.tasks: set[asyncio.Task[None]] = set()
        self.under_way = 0

    async def connect(self, due: float) -> None:
        """Opens a connection, on which a first request leaves at once."""
        self.open += 1
        try:
            _transport, connection = await asyncio.get_running_loop().create_connection(
                lambda: Connection(self), *self.address
            )
        except OSError:
            self.open -= 1
            self.under_way -= 1
            self.count(0, due)
            return
        connection.send(next(self.payloads), due)

    def gone(self, connection: Connection) -> None:
        """Closed while it was idle: by us, or by a server that has waited long enough."""
        if connection in self.idle:
            self.idle.remove(connection)
            self.open -= 1

    def start(self, due: float) -> None:
        if self.idle and time.perf_counter() - self.idle[-1].idle_since < REUSE:
            self.under_way += 1
            # The one that was used last, so that others are left to be closed by the server.
            self.idle.pop().send(next(self.payloads), due)
        elif self.open < MAX_CONNECTIONS:
            self.under_way += 1
            task = asyncio.get_running_loop().create_task(self.connect(due))
            self.tasks.add(task)
            task.add_done_callback(self.tasks.discard)
        elif due >= self.began:
            self.unsent += 1

    def answered(self, connection: Connection, status: int, due: float, spent: bool) -> None:
        self.under_way -= 1
        self.open -= spent
        if not spent:
            connection.idle_since = time.perf_counter()
            self.idle.append(connection)
        self.count(status, due)
        if self.closed and time.perf_counter() < self.ends:
            self.start(time.perf_counter())

    def count(self, status: int, due: float) -> None:
        now = time.perf_counter()
        # Closed loop: what was answered within the time. Open loop: what was due within it.
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
        patience = time.perf_counter() + PATIENCE
        while self.under_way and time.perf_counter() < patience:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        return self.summary(seconds, cpu)

    def summary(self, seconds: float, cpu: float) -> dict[str, Any]:
        times, refusals = ([1000 * s for s in sorted(each)] for each in (self.latencies, self.refusals))
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
            "offered": counted + self.under_way,
            "sent_by": self.sent_by,
            "errors": {str(status): n for status, n in sorted(self.statuses.items()) if status != 200},
            "unsent": self.unsent,
            "unanswered": self.under_way,
            "client_core_ms": 1000 * cpu / max(1, counted),
        }


def percentile(times: list[float], fraction: float) -> float | None:
    """Nearest rank of what is sorted; None where nothing was answered."""
    return times[max(0, math.ceil(fraction * len(times)) - 1)] if times else None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("url")
    parser.add_argument("--images", type=Path, required=True, help="folder of JPEG files, sent in turn")
    parser.add_argument("--connections", type=int, default=1, help="of the closed loop")
    parser.add_argument("--rate", type=float, default=0.0, help="requests/s of the open loop")
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--warm-up", type=float, default=2.0, help="s before anything is counted")
    parser.add_argument("--form", choices=FORMS, default="bare", help="of the body")
    parser.add_argument("--model", default="alexnet", help="name in the path of v2")
    args = parser.parse_args()
    url = urlsplit(args.url)
    payloads = [request(file.read_bytes(), args.form, args.model) for file in found(args.images)]

    async def run() -> dict[str, Any]:
        load = Load(url.hostname or "127.0.0.1", url.port or 80, payloads, closed=not args.rate)
        return await load.run(args.connections, args.rate, args.warm_up, args.seconds)

    print(json.dumps(uvloop.run(run())))


if __name__ == "__main__":
    main()
