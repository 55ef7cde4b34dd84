"""Measure the server under load, and compare it with the limit without HTTP (benchmarks/limit.py).

    python -m benchmarks.serve --model models/flowers17.onnx --images FOLDER
    DEVICE=cuda WORKERS=8 python -m benchmarks.serve --connections 1 32 128 256

Settings of the server are those of the environment; DEVICE is cpu by default. On a GPU the limit is what
the cores can decode, without the network.

Runs a real server process, and the load generator of support/load.py in another process on the same cores.
The loads are closed loops at several numbers of connections, then open loops at 70 % of the best rate and
at 150 %, which is beyond saturation. Server and limit take turns of a second, because a shared machine
changes its speed within seconds: a row is the mean of its turns, and `of limit` the ratio of the two means
with its standard error. The open loops have fewer and longer turns, so that the queue fills. Steal is the
share of the cores that other guests of the machine took; a turn with more than 2 % is repeated, up to three
times in all.
"""

import argparse
import json
import math
import os
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from statistics import mean, median, stdev
from typing import Any

from benchmarks.decode_limit import decode_ceiling
from benchmarks.limit import photographs
from benchmarks.support.load import percentile
from benchmarks.support.machine import STEAL_LIMIT, Watch, memory_mb

SINGLE = "1 connections"
OPEN_LOOP_FACTOR = 4  # turns of the open loops are longer by this factor, and fewer


def device() -> str:
    return os.environ.get("DEVICE", "cpu")


@contextmanager
def server(
    model: Path, cores: set[int] | None = None, checkout: Path = Path()
) -> Iterator[tuple[str, int]]:
    """Run the server of a `checkout` on `cores` (default: all); yield its address and process id.

    Other settings are those of the environment, and DEVICE, by default cpu.
    """
    environ = os.environ | {
        "MODEL": str(model.absolute()),
        "PORT": "0",
        "DEVICE": device(),
        "LOG_FORMAT": "text",
    }
    with subprocess.Popen(
        [sys.executable, "-m", "service"],
        env=environ,
        cwd=checkout,
        stdout=subprocess.PIPE,
        text=True,
        preexec_fn=partial(os.sched_setaffinity, 0, cores) if cores else None,
    ) as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        if " on http" not in line:
            raise SystemExit("error: the server did not start; its message is above")
        try:
            yield line.split(" on ")[1].split()[0], process.pid
        finally:
            process.terminate()


def load(url: str, images: Path, *options: object, attempts: int = 3) -> tuple[dict[str, Any], float]:
    """Run the load generator; return its results, and the steal during the run in %."""
    command = [sys.executable, "-m", "benchmarks.support.load", url, "--images", images, *options]
    for _attempt in range(attempts):
        with Watch() as watch:
            done = subprocess.run([str(part) for part in command], check=True, stdout=subprocess.PIPE)
        if watch.steal <= STEAL_LIMIT:
            break
    result: dict[str, Any] = json.loads(done.stdout)
    return result, watch.steal


@contextmanager
def ceiling(model: Path, images: Path) -> Iterator[Callable[[str, float], float]]:
    """Run benchmarks/limit.py; yield a function that measures `limit` in images/s or `single` in ms."""
    command: list[str | Path] = [sys.executable, "-m", "benchmarks.limit", "--turns"]
    command += ["--model", model, "--images", images]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None

        def turn(kind: str, seconds: float) -> float:
            print(kind, seconds, file=process.stdin, flush=True)
            assert process.stdout is not None
            return float(process.stdout.readline())

        yield turn


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", type=Path, default=Path("models/flowers17.onnx"))
    parser.add_argument("--images", type=Path, help="folder of JPEG files; default: drawn, 101 KB each")
    parser.add_argument("--large", action="store_true", help="drawn photographs of 12 megapixels")
    parser.add_argument("--seconds", type=float, default=1.0, help="per turn")
    parser.add_argument("--turns", type=int, default=16, help="per load, at least 2")
    parser.add_argument("--json", type=Path, help="file for all results")
    parser.add_argument("--connections", type=int, nargs="+", default=[1, 8, 32, 64])
    args = parser.parse_args()
    if args.turns < 2:
        parser.error("--turns must be 2 or more")
    with tempfile.TemporaryDirectory() as folder:
        images = photographs(args.images, args.large, Path(folder))[0].parent
        if args.images is not None:
            images = args.images
        limit = ceiling if device() != "cuda" else decode_ceiling
        with limit(args.model, images) as turn, server(args.model) as (url, pid):
            rows = measure(url, images, turn, args)
            memory = memory_mb(pid)
    print("client: CPU time of the load generator on the same cores, core-ms per request")
    print(f"peak memory of the server: {memory:.0f} MB")
    goals(rows)
    if args.json is not None:
        args.json.write_text(json.dumps({"loads": rows, "memory_mb": memory}, indent=1))


def measure(
    url: str, images: Path, turn: Callable[[str, float], float], args: argparse.Namespace
) -> dict[str, dict[str, Any]]:
    """Measure each load and print its row; return the results by name."""
    heads = f"{'images/s':>9}{'of limit':>14}{'p50 ms':>8}{'p95':>8}{'p99':>8}{'client':>8}{'steal %':>8}"
    print(f"{'load':<16}{heads}  errors")
    rows: dict[str, dict[str, Any]] = {}

    def row(name: str, *options: object, longer: int = 1) -> float:
        seconds, turns = longer * args.seconds, max(2, args.turns // longer)
        limits, singles, loads = [], [], []
        for _turn in range(turns):
            limits.append(turn("limit", seconds))
            if name == SINGLE and device() != "cuda":
                singles.append(turn("single", seconds))
            result, steal = load(url, images, *options, "--seconds", seconds, "--warm-up", seconds / 2)
            loads.append(result | {"steal": steal})
        rows[name] = result = summary(loads, limits, singles)
        times = "".join(f"{result[f'{p}_ms'] or math.nan:8.1f}" for p in ("p50", "p95", "p99"))
        times += f"{result['client_core_ms']:8.2f}{result['steal']:8.1f}"
        share = f"{result['of_limit']:.2f} +- {result['of_limit_error']:.2f}"
        print(
            f"{name:<16}{result['images_per_s']:9.1f}{share:>14}{times}  {result['errors'] or ''}",
            flush=True,
        )
        return float(result["images_per_s"])

    best = max(row(f"{count} connections", "--connections", count) for count in args.connections)
    for share, name in ((0.7, "70 % of the best"), (1.5, "150 %")):
        row(name, "--rate", share * best, longer=OPEN_LOOP_FACTOR)
    return rows


def summary(loads: list[dict[str, Any]], limits: list[float], singles: list[float]) -> dict[str, Any]:
    """Summarise the turns of a load: mean rates, percentiles of all latencies, sums of errors."""
    rates = [turn["images_per_s"] for turn in loads]
    times = sorted(ms for turn in loads for ms in turn["times_ms"])
    errors: Counter[str] = Counter()
    for turn in loads:
        errors.update(turn["errors"])
        errors.update({kind: turn[kind] for kind in ("unsent", "unanswered") if turn[kind]})
    result = {f"p{percent}_ms": percentile(times, percent / 100) for percent in (50, 95, 99)}
    return result | {
        "images_per_s": mean(rates),
        "of_limit": mean(rates) / mean(limits),
        # the standard error of a ratio of means, for independent turns
        "of_limit_error": mean(rates)
        / mean(limits)
        * math.hypot(
            *(stdev(values) / mean(values) / math.sqrt(len(values)) for values in (rates, limits))
        ),
        "of_single": (result["p50_ms"] or math.nan) / median(singles) if singles else None,
        "client_core_ms": mean(turn["client_core_ms"] for turn in loads),
        "steal": max(turn["steal"] for turn in loads),
        "errors": dict(errors),
        "turns": {"images_per_s": rates, "limit": limits, "single_ms": singles},
    }


def goals(rows: dict[str, dict[str, Any]]) -> None:
    """Print the ratios that have goals, where their loads were measured."""
    at_32, at_1, at_70 = map(rows.get, ("32 connections", SINGLE, "70 % of the best"))
    if device() == "cuda":
        best = max(row["of_limit"] for name, row in rows.items() if name.endswith("connections"))
        print(f"at best {best:.2f} of what the cores can decode (goal: at least 0.8)")
    elif at_32:
        print(f"at 32 connections {at_32['of_limit']:.2f} of the limit (goal: at least 0.85)")
    if at_1 and at_1["of_single"]:
        print(
            f"single request, p50 is {at_1['of_single']:.2f} times decoding and a run (goal: at most 1.3)"
        )
    if at_70:
        print(f"at 70 % load, p99 is {at_70['p99_ms'] / at_70['p50_ms']:.1f} times p50 (goal: at most 3)")


if __name__ == "__main__":
    main()
