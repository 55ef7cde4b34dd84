"""An hour of what a public server meets: good requests at 70 % of the peak, bad ones among them, and a new
model file every minute.

    python -m benchmarks.soak --seconds 3600 --json soak.json

Every bad request has the statuses that it may be answered with; anything else is an error that was not
asked for. Prints a table and a verdict for each bar; the exit code is 1 when one is missed.
"""

import argparse
import http.client
import json
import os
import re
import signal
import socket
import struct
import sys
import tempfile
import threading
import time
import zlib
from collections import Counter
from dataclasses import asdict
from itertools import cycle
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from benchmarks.limit import photographs
from benchmarks.serve import load, server
from benchmarks.support.vitals import Bar, Sample, Watcher, ask, flat, look, not_grown, options, verdict

CONNECTIONS = 32  # of the closed loop that finds the peak
BAD_PER_S = 5.0
POST = b"POST /predict HTTP/1.1\r\nHost: soak\r\n"
GET = b"GET /health/live HTTP/1.1\r\nHost: soak\r\n"
NOTHING = b""  # the connection was closed without an answer
SETTLE_S = 8.0  # until idle connections and threads have gone


def post(body: bytes, *headers: bytes) -> bytes:
    head = b"".join(header + b"\r\n" for header in headers)
    return POST + head + b"Connection: close\r\nContent-Length: %d\r\n\r\n" % len(body) + body


def attacks(image: bytes) -> list[tuple[str, bytes, set[bytes]]]:
    """Name, bytes, and the statuses that it may be answered with."""
    header = b"IHDR" + struct.pack(">IIBBBBB", 100_000, 100_000, 8, 2, 0, 0, 0)
    png = b"\x89PNG\r\n\x1a\n\0\0\0\r" + header + struct.pack(">I", zlib.crc32(header)) + b"\0\0\0\0IDAT"
    form = b"Content-Type: multipart/form-data; boundary=b"
    part = b'--b\r\nContent-Disposition: form-data; name="file"; filename="x"\r\n\r\nx\r\n'
    return [
        ("no image", post(b"hello"), {b"415"}),
        ("half an image", post(image[: len(image) // 2]), {b"422"}),
        ("ten gigapixels", post(png), {b"413"}),
        ("an empty image", post(b""), {b"422"}),
        ("a thousand files", post(part * 1000 + b"--b--", form), {b"422"}),
        ("half a form", post(part, form), {b"422"}),
        ("deep JSON", post(b"[" * 50_000, b"Content-Type: application/json"), {b"422"}),
        (
            "no such path",
            GET.replace(b"/health/live", b"/static/%2e%2e/x") + b"Connection: close\r\n\r\n",
            {b"404"},
        ),
        ("no HTTP", b"\x16\x03\x01\x02\r\n\r\n", {b"400"}),
        ("two lengths", POST + b"Content-Length: 1\r\nContent-Length: 2\r\n\r\nx", {b"400"}),
        ("a bad chunk", POST + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n", {b"400"}),
        ("headers without end", GET + b"A: b\r\n" * 100_000, {b"431", NOTHING}),
        ("a slow head", GET, {b"408"}),
        ("a slow body", POST + b"Content-Length: 100\r\n\r\nx", {b"408"}),
        ("nothing", b"", {NOTHING}),
        ("too large", POST + b"Content-Length: 99999999999\r\n\r\n", {b"413"}),
        ("requests ahead", (GET + b"\r\n") * 100, {b"200"}),
        ("ten crops", post(image).replace(b"/predict", b"/predict?crops=10", 1), {b"200"}),
        ("a deadline", post(image, b"X-Request-Timeout-MS: 1"), {b"504", b"200"}),
    ]


class Attacker:
    """Sends them in turn, BAD_PER_S a second, each on a connection of its own; some wait for a timeout of
    the server's, so many are under way at a time. Every fourth goes away without its answer.
    """

    def __init__(self, url: str, image: bytes) -> None:
        split = urlsplit(url)
        self._address = (split.hostname or "", split.port or 80)
        self._attacks = attacks(image)
        self._ended = threading.Event()
        self._under_way: set[threading.Thread] = set()
        self.sent: Counter[str] = Counter()
        self.unasked: Counter[str] = Counter()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> "Attacker":
        self._thread.start()
        return self

    def __exit__(self, *_error: object) -> None:
        self._ended.set()
        self._thread.join()
        for thread in list(self._under_way):
            thread.join()

    def _run(self) -> None:
        for number, (name, data, allowed) in enumerate(cycle(self._attacks)):
            if self._ended.wait(1 / BAD_PER_S):
                return
            self._under_way = {thread for thread in self._under_way if thread.is_alive()}
            thread = threading.Thread(target=self._attack, args=(name, data, allowed, number % 4 == 3))
            self._under_way.add(thread)
            thread.start()

    def _attack(self, name: str, data: bytes, allowed: set[bytes], leaves: bool) -> None:
        try:
            with socket.create_connection(self._address, timeout=60) as connection:
                status = NOTHING
                try:
                    connection.sendall(data)
                    if leaves:
                        self.sent["and left"] += 1
                        return
                    status = connection.makefile("rb").readline()[9:12]
                except (BrokenPipeError, ConnectionResetError):
                    pass
        except OSError as error:
            self.unasked[f"{name}: {error}"] += 1
            return
        self.sent[name] += 1
        # At 70 % load a request may meet a full house; that is what 429 is for.
        if status not in allowed | {b"429"}:
            self.unasked[f"{name}: {status.decode() or 'closed'}"] += 1


class Swapper:
    """Every `period` s the other of two versions takes the model file's place, and a SIGHUP says so."""

    def __init__(self, url: str, pid: int, file: Path, period: float) -> None:
        self._url, self._pid, self._file, self._period = url, pid, file, period
        self._versions = two_versions(file.read_bytes())
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self.swapped = 0
        self.missed = 0

    def __enter__(self) -> "Swapper":
        self._thread.start()
        return self

    def __exit__(self, *_error: object) -> None:
        self._ended.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._ended.wait(self._period):
            data = self._versions[(self.swapped + self.missed + 1) % 2]
            partial = self._file.with_suffix(".new")
            partial.write_bytes(data)
            partial.replace(self._file)
            os.kill(self._pid, signal.SIGHUP)
            wanted = version_in(data)
            until = time.monotonic() + 60
            while (found := version_of(self._url)) != wanted and time.monotonic() < until:
                time.sleep(0.1)
            self.swapped += found == wanted
            self.missed += found != wanted


def two_versions(data: bytes) -> tuple[bytes, bytes]:
    """The file as it is, and the same with another digit as its manifest's version."""
    number = version_in(data)
    other = 1 if number == 2 else 2
    return data, data.replace(b'"version": %d' % number, b'"version": %d' % other)


def version_in(data: bytes) -> int:
    found = re.findall(rb'"version": (\d)\b', data)
    if len(found) != 1:
        raise SystemExit("error: the model's version must be one digit, once in its manifest")
    return int(found[0])


def version_of(url: str) -> int | None:
    split = urlsplit(url)
    connection = http.client.HTTPConnection(split.hostname or "", split.port, timeout=60)
    try:
        connection.request("GET", "/health")
        found: int = json.loads(connection.getresponse().read())["model"]["version"]
    except (OSError, http.client.HTTPException, KeyError, ValueError):
        return None
    finally:
        connection.close()
    return found


def main() -> int:
    parser = options(__doc__, seconds=3600.0)
    parser.add_argument("--share", type=float, default=0.7, help="of the peak that is asked for")
    parser.add_argument("--swap-every", type=float, default=60.0, help="s")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        model = Path(folder) / "soak.onnx"
        model.write_bytes(args.model.read_bytes())
        (Path(folder) / "images").mkdir()
        files = photographs(args.images, False, Path(folder) / "images")
        images = args.images or files[0].parent
        found = measure(model, images, files[0].read_bytes(), args)
    print_table(found)
    return verdict(judge(found), found, args.json)


def measure(model: Path, images: Path, image: bytes, args: argparse.Namespace) -> dict[str, Any]:
    with server(model) as (url, pid):
        peak, _steal = load(url, images, "--connections", CONNECTIONS, "--seconds", args.peak_seconds)
        right = ask(url, "POST", "/predict", image)
        time.sleep(SETTLE_S)
        before = look(pid)
        rate = args.share * peak["images_per_s"]
        with (
            Watcher(url, pid, image, period=max(0.5, args.seconds / 1000)) as watcher,
            Attacker(url, image) as attacker,
            Swapper(url, pid, model, args.swap_every) as swapper,
        ):
            good, steal = load(url, images, "--rate", rate, "--seconds", args.seconds, attempts=1)
        time.sleep(SETTLE_S)
        return {
            "peak": peak,
            "rate": rate,
            "good": good,
            "steal": steal,
            "right": right.label,
            "answers": [asdict(answer) for answer in watcher.answers],
            "health": [asdict(answer) for answer in watcher.health],
            "bad": dict(attacker.sent),
            "unasked": dict(attacker.unasked),
            "swapped": swapper.swapped,
            "missed": swapper.missed,
            "samples": [asdict(sample) for sample in watcher.samples],
            "before": asdict(before),
            "after": asdict(look(pid)),
        }


def judge(found: dict[str, Any]) -> list[Bar]:
    good = found["good"]
    samples = [Sample(**sample) for sample in found["samples"]]
    errors = good["errors"] | {key: good[key] for key in ("unsent", "unanswered") if good[key]}
    wrong = Counter(
        f"{answer['status']} {answer['label']}"
        for answer in found["answers"]
        if (answer["status"], answer["label"]) != (200, found["right"])
    )
    sick = Counter(answer["status"] for answer in found["health"] if answer["status"] != 200)
    before, after = found["before"], found["after"]
    return [
        Bar("every good request is answered 200", f"others: {errors or 'none'}", not errors),
        Bar("a known image gets its label", f"others: {dict(wrong) or 'none'}", not wrong),
        Bar(
            "every bad one gets what it asked for",
            f"others: {found['unasked'] or 'none'}",
            not found["unasked"],
        ),
        Bar("health is 200 each time", f"others: {dict(sick) or 'none'}", not sick),
        Bar(
            "every swap takes place",
            f"{found['swapped']} did, {found['missed']} did not",
            found["swapped"] > 0 and found["missed"] == 0,
        ),
        flat(samples),
        not_grown(samples, "threads", 8),
        Bar(
            "descriptors are as before (2 more at most)",
            f"{before['descriptors']} before, {after['descriptors']} after",
            after["descriptors"] <= before["descriptors"] + 2,
        ),
        Bar(
            "threads are as before (8 more at most)",
            f"{before['threads']} before, {after['threads']} after",
            after["threads"] <= before["threads"] + 8,
        ),
    ]


def print_table(found: dict[str, Any]) -> None:
    good = found["good"]
    print(f"peak {found['peak']['images_per_s']:.1f} images/s, asked for {found['rate']:.1f}")
    print(
        f"answered {good['images_per_s']:.1f} images/s: p50 {good['p50_ms'] or 0:.1f} ms, "
        f"p99 {good['p99_ms'] or 0:.1f} ms; steal {found['steal']:.1f} %"
    )
    print(f"bad requests: {sum(found['bad'].values())}; swaps: {found['swapped']}")
    print(f"{'s':>8}{'MB':>8}{'threads':>9}{'descriptors':>13}")
    samples = found["samples"]
    for sample in samples[:: max(1, len(samples) // 12)]:
        since = sample["when"] - samples[0]["when"]
        print(f"{since:8.0f}{sample['memory_mb']:8.0f}{sample['threads']:9}{sample['descriptors']:13}")


if __name__ == "__main__":
    sys.exit(main())
