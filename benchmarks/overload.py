"""Overload the server tenfold for minutes: admitted requests are answered, the others refused at once.

    python -m benchmarks.overload --seconds 300 --json overload.json

Runs a real server and the load generator of support/load.py on this machine: the generator (and HAProxy,
with --proxy) on the last core, the server on the others, because the generator needs more CPU than the
server. That core is kept busy all the time, also while the peak is measured, because cores are slower
beside a busy one.

First the peak is measured in closed loop; then a multiple of it is sent in open loop, whether or not
responses come; then only single requests, until latency is back to normal; then the peak again, because a
shared machine changes its speed within minutes. Prints whether each acceptance criterion is met; the exit
code is 1 if one is not.
"""

import argparse
import math
import os
import sys
import tempfile
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path
from statistics import mean
from time import sleep
from typing import Any

from benchmarks.limit import photographs
from benchmarks.serve import load, server
from benchmarks.support import vitals
from benchmarks.support.load import MAX_CONNECTIONS
from benchmarks.support.machine import busy
from benchmarks.support.proxy import proxy
from benchmarks.support.vitals import Criterion, Response, Sample, Watcher, ask

CONNECTIONS = 32  # of the closed loop that finds the peak
MAX_HEALTH_MS, MAX_REFUSAL_MS = 100.0, 50.0
MAX_RECOVERY_S = 5.0  # until latency is back to normal
WATCH_AFTER_S = 10.0  # how long the server is watched after the load


def main() -> int:
    parser = vitals.options(__doc__, seconds=300.0)
    parser.add_argument("--times", type=float, default=10.0, help="multiple of the peak")
    parser.add_argument("--proxy", action="store_true", help="with HAProxy as in docker-compose.yml")
    args = parser.parse_args()
    # The load generator keeps idle connections open, and the server must not close them to make room.
    os.environ.setdefault("MAX_CONNECTIONS", str(2 * MAX_CONNECTIONS))
    with tempfile.TemporaryDirectory() as folder:
        files = photographs(args.images, False, Path(folder))
        images = args.images or files[0].parent
        results = measure(args.model, images, files[0].read_bytes(), args)
    print_table(results)
    return vitals.report(criteria(results), results, args.json)


def measure(model: Path, images: Path, image: bytes, args: argparse.Namespace) -> dict[str, Any]:
    cores = os.sched_getaffinity(0)
    own_core = {max(cores)}
    os.sched_setaffinity(0, own_core)
    with (
        server(model, cores=cores - own_core or cores) as (address, pid),
        proxy(address) if args.proxy else nullcontext(address) as url,
        busy() if cores - own_core else nullcontext(),
    ):
        closed = ("--connections", CONNECTIONS, "--seconds", args.peak_seconds)
        before, _steal = load(url, images, *closed)
        singles = [ask(url, "POST", "/predict", image) for _request in range(20)]
        rate = args.times * before["images_per_s"]
        with Watcher(url, pid, image) as watcher:
            over, steal = load(url, images, "--rate", rate, "--seconds", args.seconds, attempts=1)
            sleep(WATCH_AFTER_S)
        after, _steal = load(url, images, *closed)
        end = over["sent_by"]
        return {
            "peaks": [before, after],
            "over": over,
            "steal": steal,
            "requested_rate": rate,
            "offered_rate": over["offered"] / args.seconds,
            "single_ms": sorted(answer.ms for answer in singles)[len(singles) // 2],
            "single_ok": all(answer.status == 200 for answer in singles),
            "expected": sorted({answer.label or "" for answer in singles}),
            "health": [asdict(answer) for answer in watcher.health if answer.when <= end],
            "answers": [asdict(answer) for answer in watcher.answers],
            "samples": [asdict(sample) for sample in watcher.samples if sample.when <= end],
            "recovery_s": recovery_s(watcher.answers, end, singles),
            "deadline_s": float(os.environ.get("REQUEST_TIMEOUT_S") or 30),
        }


def recovery_s(answers: list[Response], end: float, singles: list[Response]) -> float | None:
    """Return the s from the end of the load until latency is normal again; None if it never is."""
    normal = 3 * max(answer.ms for answer in singles)
    after = [answer for answer in answers if answer.when >= end]
    slow = [answer for answer in after if answer.status != 200 or answer.ms > normal]
    if not after or (slow and slow[-1] is after[-1]):
        return None
    return slow[-1].when + slow[-1].ms / 1000 - end if slow else 0.0


def criteria(results: dict[str, Any]) -> list[Criterion]:
    """Return whether the results meet the acceptance criteria."""
    over, deadline = results["over"], results["deadline_s"]
    errors = {status: n for status, n in over["errors"].items() if status != "429"}
    probes = {answer["status"] for answer in results["answers"]} - {200, 429}
    labels = {answer["label"] for answer in results["answers"] if answer["status"] == 200}
    health = sorted(answer["ms"] for answer in results["health"])
    slowest = over["max_ms"] or 0.0
    refused = over["p99_refused_ms"]
    peak = mean(peak["images_per_s"] for peak in results["peaks"])
    share = over["images_per_s"] / max(peak, 1e-9)
    samples = [Sample(**sample) for sample in results["samples"]]
    p99 = health[int(0.99 * (len(health) - 1))] if health else math.inf
    slowest_health = max(health, default=math.inf)
    return [
        Criterion("every response is 200 or 429", f"others: {errors or 'none'}", not errors and not probes),
        Criterion("every request is answered", f"{over['unanswered']} were not", over["unanswered"] == 0),
        Criterion(
            "a known image gets its label",
            f"{sorted(map(str, labels))}",
            labels <= set(results["expected"]),
        ),
        Criterion(
            "health answers 200 each time",
            f"{len(health)} times",
            bool(health) and {answer["status"] for answer in results["health"]} == {200},
        ),
        vitals.memory_is_flat(samples),
        Criterion(
            f"admitted: answered within {deadline:g} s",
            f"at most {slowest / 1000:.2f} s, p99 {(over['p99_ms'] or 0) / 1000:.2f} s",
            slowest <= 1000 * deadline,
        ),
        Criterion(
            f"refused: 429 within {MAX_REFUSAL_MS:g} ms (p99)",
            f"p50 {over['p50_refused_ms'] or 0:.1f} ms, p99 {refused or 0:.1f} ms",
            refused is None or refused <= MAX_REFUSAL_MS,
            depends_on_speed=True,
        ),
        Criterion(
            f"health within {MAX_HEALTH_MS:g} ms each time",
            f"p99 {p99:.1f} ms, at most {slowest_health:.1f} ms",
            slowest_health <= MAX_HEALTH_MS,
            depends_on_speed=True,
        ),
        Criterion(
            "throughput within 10 % of the mean peak",
            f"{share:.2f} of it",
            share >= 0.9,
            depends_on_speed=True,
        ),
        Criterion(
            f"back to normal within {MAX_RECOVERY_S:g} s",
            "not in time" if results["recovery_s"] is None else f"{results['recovery_s']:.1f} s",
            results["recovery_s"] is not None and results["recovery_s"] <= MAX_RECOVERY_S,
            depends_on_speed=True,
        ),
    ]


def print_table(results: dict[str, Any]) -> None:
    (before, after), over = results["peaks"], results["over"]
    print(
        f"peak {before['images_per_s']:.1f} images/s before and {after['images_per_s']:.1f} after, "
        f"at {CONNECTIONS} connections"
    )
    print(
        f"requested {results['requested_rate']:.0f} requests/s, offered {results['offered_rate']:.0f} "
        f"({over['unsent']} could not be sent: every connection was busy)"
    )
    print(f"answered {over['images_per_s']:.1f}/s, others {over['errors']}, steal {results['steal']:.1f} %")


if __name__ == "__main__":
    sys.exit(main())
