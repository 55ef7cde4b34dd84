"""The server under load, beside what the same machine does without HTTP (benchmarks/limit.py).

    python -m benchmarks.serve --model models/flowers17.onnx --images FOLDER

A real server process, a real socket, and the load generator in support/load.py in a process of its own,
on the same cores. Closed loop at several numbers of connections, then open loop at 70 % of the best rate
and at 150 %, which is past saturation. Server and limit take turns of a second, because a machine that
others use too changes its speed within seconds: a row is the mean of its turns, and `of limit` the ratio of
the two means, with its standard error. The open loop has fewer and longer turns, for the queue to fill.
Steal is what other guests of the machine took of its cores; a turn with more than 2 % of it is made again,
three times at most.
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

from benchmarks.limit import photographs
from benchmarks.support.load import percentile
from benchmarks.support.machine import STEAL_LIMIT, Watch, memory_mb

ALONE = "1 connections"
LONGER = 4  # turns of the open loop, and so many times fewer


@contextmanager
def server(
    model: Path, cores: set[int] | None = None, checkout: Path = Path()
) -> Iterator[tuple[str, int]]:
    """That of a `checkout`, on `cores` alone, if any are named. -> its address and process id; other
    settings are those of the environment.
    """
    environ = os.environ | {
        "MODEL": str(model.absolute()),
        "PORT": "0",
        "DEVICE": "cpu",
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
            raise SystemExit("error: the server did not start; it says why above")
        try:
            yield line.split(" on ")[1].split()[0], process.pid
        finally:
            process.terminate()


def load(url: str, images: Path, *options: object, attempts: int = 3) -> tuple[dict[str, Any], float]:
    """-> what benchmarks/support/load.py printed, and the steal meanwhile, %."""
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
    """-> what benchmarks/limit.py finds of `limit`, in images/s, or `exclusive`, in ms, in so many s."""
    command: list[str | Path] = [sys.executable, "-m", "benchmarks.limit", "--turns"]
    command += ["--model", model, "--images", images]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None

        def turn(what: str, seconds: float) -> float:
            print(what, seconds, file=process.stdin, flush=True)
            assert process.stdout is not None
            return float(process.stdout.readline())

        yield turn


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", type=Path, default=Path("models/flowers17.onnx"))
    parser.add_argument("--images", type=Path, help="folder of JPEG files; default: drawn, 101 KB each")
    parser.add_argument("--large", action="store_true", help="drawn photographs of 12 megapixels")
    parser.add_argument("--seconds", type=float, default=1.0, help="of a turn")
    parser.add_argument("--turns", type=int, default=16, help="of each load, two or more")
    parser.add_argument("--json", type=Path, help="file for everything that was measured")
    parser.add_argument("--connections", type=int, nargs="+", default=[1, 8, 32, 64])
    args = parser.parse_args()
    if args.turns < 2:
        parser.error("--turns must be 2 or more")
    with tempfile.TemporaryDirectory() as folder:
        images = photographs(args.images, args.large, Path(folder))[0].parent
        if args.images is not None:
            images = args.images
        with ceiling(args.model, images) as turn, server(args.model) as (url, pid):
            rows = measure(url, images, turn, args)
            memory = memory_mb(pid)
    print("client: what the load generator itself takes of the same cores, core-ms a request")
    print(f"the server's memory at most {memory:.0f} MB")
    goals(rows)
    if args.json is not None:
        args.json.write_text(json.dumps({"loads": rows, "memory_mb": memory}, indent=1))


def measure(
    url: str, images: Path, turn: Callable[[str, float], float], args: argparse.Namespace
) -> dict[str, dict[str, Any]]:
    """Prints a row for each load as it goes."""
    heads = f"{'images/s':>9}{'of limit':>14}{'p50 ms':>8}{'p95':>8}{'p99':>8}{'client':>8}{'steal %':>8}"
    print(f"{'load':<16}{heads}  errors")
    rows: dict[str, dict[str, Any]] = {}

    def row(name: str, *options: object, longer: int = 1) -> float:
        seconds, turns = longer * args.seconds, max(2, args.turns // longer)
        limits, exclusive, loads = [], [], []
        for _turn in range(turns):
            limits.append(turn("limit", seconds))
            if name == ALONE:
                exclusive.append(turn("alone", seconds))
            found, steal = load(url, images, *options, "--seconds", seconds, "--warm-up", seconds / 2)
            loads.append(found | {"steal": steal})
        rows[name] = result = summary(loads, limits, exclusive)
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
        row(name, "--rate", share * best, longer=LONGER)
    return rows


def summary(loads: list[dict[str, Any]], limits: list[float], exclusive: list[float]) -> dict[str, Any]:
    """One load's turns: means of the rates, percentiles of all latencies, the sums of what went wrong."""
    rates = [found["images_per_s"] for found in loads]
    times = sorted(ms for found in loads for ms in found["times_ms"])
    errors: Counter[str] = Counter()
    for found in loads:
        errors.update(found["errors"])
        errors.update({kind: found[kind] for kind in ("unsent", "unanswered") if found[kind]})
    result = {f"p{percent}_ms": percentile(times, percent / 100) for percent in (50, 95, 99)}
    return result | {
        "images_per_s": mean(rates),
        "of_limit": mean(rates) / mean(limits),
        # of a ratio of means, the turns being independent of each other
        "of_limit_error": mean(rates)
        / mean(limits)
        * math.hypot(*(stdev(each) / mean(each) / math.sqrt(len(each)) for each in (rates, limits))),
        "of_alone": (result["p50_ms"] or math.nan) / median(exclusive) if exclusive else None,
        "client_core_ms": mean(found["client_core_ms"] for found in loads),
        "steal": max(found["steal"] for found in loads),
        "errors": dict(errors),
        "turns": {"images_per_s": rates, "limit": limits, "alone_ms": exclusive},
    }


def goals(rows: dict[str, dict[str, Any]]) -> None:
    """The ratios that are aimed at, where their loads were measured."""
    at_32, at_1, at_70 = map(rows.get, ("32 connections", ALONE, "70 % of the best"))
    if at_32:
        print(f"at 32 connections {at_32['of_limit']:.2f} of the limit (goal: 0.85 or more)")
    if at_1:
        print(f"alone, p50 is {at_1['of_alone']:.2f} of decoding and a batch of one (goal: 1.3 at most)")
    if at_70:
        print(f"at 70 % load, p99 is {at_70['p99_ms'] / at_70['p50_ms']:.1f} times p50 (goal: 3 at most)")


if __name__ == "__main__":
    main()
