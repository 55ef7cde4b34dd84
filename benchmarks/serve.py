"""The server under load, beside what the same machine does without HTTP (benchmarks/limit.py).

    python -m benchmarks.serve --model models/flowers17.onnx --images FOLDER

A real server process, a real socket, and the load generator of benchmarks/load.py in a process of its own,
on the same cores. Closed loop at several numbers of connections, then open loop at 70 % of the best rate
and at 150 %, which is past saturation. The limit is measured anew between every two of them, because it
moves, and each is held against its neighbours; of several rounds of a load the one in the middle counts.
Steal is what other guests of the machine took of its cores; a measurement with more than 2 % of it is made
again, three times at most.
"""

import argparse
import json
import math
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.limit import photographs
from benchmarks.machine import STEAL_LIMIT, Watch, memory_mb


@contextmanager
def server(
    model: Path, module: str = "service", cores: set[int] | None = None
) -> Iterator[tuple[str, int]]:
    """On `cores` alone, if any are named. -> its address and process id; other settings are those of the
    environment.
    """
    environ = os.environ | {"MODEL": str(model), "PORT": "0", "DEVICE": "cpu", "LOG_FORMAT": "text"}
    with subprocess.Popen(
        [sys.executable, "-m", module],
        env=environ,
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
    """-> what benchmarks/load.py printed, and the steal meanwhile, %."""
    command = [sys.executable, "-m", "benchmarks.load", url, "--images", images, *options]
    for _attempt in range(attempts):
        with Watch() as watch:
            done = subprocess.run([str(part) for part in command], check=True, stdout=subprocess.PIPE)
        if watch.steal <= STEAL_LIMIT:
            break
    result: dict[str, Any] = json.loads(done.stdout)
    return result, watch.steal


def limit(model: Path, images: Path, seconds: float) -> dict[str, Any]:
    command = [sys.executable, "-m", "benchmarks.limit", "--json", "--model", str(model)]
    command += ["--images", str(images), "--seconds", str(seconds)]
    found: dict[str, Any] = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", type=Path, default=Path("models/flowers17.onnx"))
    parser.add_argument("--images", type=Path, help="folder of JPEG files; default: drawn, 101 KB each")
    parser.add_argument("--large", action="store_true", help="drawn photographs of 12 megapixels")
    parser.add_argument("--seconds", type=float, default=5.0, help="of each measurement")
    parser.add_argument("--rounds", type=int, default=3, help="of each load")
    parser.add_argument("--plain", action="store_true", help="drive benchmarks/plain.py instead")
    parser.add_argument("--json", type=Path, help="file for everything that was measured")
    parser.add_argument("--connections", type=int, nargs="+", default=[1, 8, 32, 64])
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        images = photographs(args.images, args.large, Path(folder))[0].parent
        if args.images is not None:
            images = args.images
        module = "benchmarks.plain" if args.plain else "service"
        found = measure(args.model, images, args.seconds, args.rounds, args.connections, module)
    if args.json is not None:
        args.json.write_text(json.dumps(found, indent=1))


def measure(
    model: Path, images: Path, seconds: float, rounds: int, connections: list[int], module: str
) -> dict[str, Any]:
    """Prints a row for each load as it goes; -> everything that was measured."""
    limits = [limit(model, images, seconds / 2)]
    heads = f"{'images/s':>9}{'of limit':>9}{'p50 ms':>8}{'p95':>8}{'p99':>8}{'client':>8}{'steal %':>8}"
    print(f"{'load':<16}{heads}  errors")
    rows: dict[str, dict[str, Any]] = {}
    with server(model, module) as (url, pid):

        def once(*options: object) -> dict[str, Any]:
            result, steal = load(url, images, *options, "--seconds", seconds)
            limits.append(limit(model, images, seconds / 2))
            before, after = limits[-2:]
            return result | {
                "of_limit": 2 * result["images_per_s"] / (before["limit"] + after["limit"]),
                "of_alone": 2
                * (result["p50_ms"] or math.nan)
                / (before["core_ms"]["alone"] + after["core_ms"]["alone"]),
                "steal": steal,
            }

        def row(name: str, *options: object) -> float:
            found = sorted((once(*options) for _round in range(rounds)), key=lambda one: one["of_limit"])
            rows[name] = result = found[rounds // 2]
            rate, steal = result["images_per_s"], result["steal"]
            times = "".join(f"{result[f'{p}_ms'] or float('nan'):8.1f}" for p in ("p50", "p95", "p99"))
            failed = result["errors"] | {k: result[k] for k in ("unsent", "unanswered") if result[k]}
            times += f"{result['client_core_ms']:8.2f}{steal:8.1f}"
            print(f"{name:<16}{rate:9.1f}{result['of_limit']:9.2f}{times}  {failed or ''}", flush=True)
            return float(rate)

        best = max(row(f"{count} connections", "--connections", count) for count in connections)
        for share, name in ((0.7, "70 % of the best"), (1.5, "150 %")):
            row(name, "--rate", share * best)
        memory = memory_mb(pid)
    print("client: what the load generator itself takes of the same cores, core-ms a request")
    print(f"the server's memory at most {memory:.0f} MB")
    ceilings, steal = [found["limit"] for found in limits], max(found["steal"] for found in limits)
    print(
        f"limit {min(ceilings):.0f} to {max(ceilings):.0f} images/s, steal at most {steal:.1f} % meanwhile"
    )
    goals(rows)
    return {"loads": rows, "limits": limits, "memory_mb": memory}


def goals(rows: dict[str, dict[str, Any]]) -> None:
    """The ratios that are aimed at, where their loads were measured."""
    at_32, at_1, at_70 = map(rows.get, ("32 connections", "1 connections", "70 % of the best"))
    if at_32:
        print(f"at 32 connections {at_32['of_limit']:.2f} of the limit (goal: 0.85 or more)")
    if at_1:
        print(f"alone, p50 is {at_1['of_alone']:.2f} of decoding and a batch of one (goal: 1.3 at most)")
    if at_70:
        print(f"at 70 % load, p99 is {at_70['p99_ms'] / at_70['p50_ms']:.1f} times p50 (goal: 3 at most)")


if __name__ == "__main__":
    main()
