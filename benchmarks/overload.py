"""Ten times what the server can do, for minutes: who is admitted is answered, the rest is told so at once.

    python -m benchmarks.overload --seconds 300 --json overload.json

A real server and the load generator in support/load.py, both on this machine: the generator on its last
core, with HAProxy if that is asked for, and the server on the others, because what sends ten times what
a server can do takes more than the server. That core has no rest all the while, the peak included: a core
is slower beside one that computes, and that is no fault of the server's. First the peak, in closed loop;
then so many times the peak in open loop, whether or not answers come; then nothing but a request now and
then, until it is as before; then the peak once more, because a machine that others use too is not as fast
after minutes as it was before.
Prints a verdict for each bar; the exit code is 1 when one is missed.
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
from benchmarks.support.load import MAX_CONNECTIONS
from benchmarks.support.machine import busy
from benchmarks.support.proxy import proxy
from benchmarks.support.vitals import Answered, Bar, Sample, Watcher, ask, flat, options, verdict

CONNECTIONS = 32  # of the closed loop that finds the peak
HEALTH_MS, REFUSED_MS = 100.0, 50.0
BACK_S = 5.0  # until it is as before
AFTER_S = 10.0  # of watching after the load


def main() -> int:
    parser = options(__doc__, seconds=300.0)
    parser.add_argument("--times", type=float, default=10.0, help="the peak")
    parser.add_argument("--proxy", action="store_true", help="with the compose file's HAProxy in front")
    args = parser.parse_args()
    # The load keeps connections too, and none of them is to make room for another.
    os.environ.setdefault("MAX_CONNECTIONS", str(2 * MAX_CONNECTIONS))
    with tempfile.TemporaryDirectory() as folder:
        files = photographs(args.images, False, Path(folder))
        images = args.images or files[0].parent
        found = measure(args.model, images, files[0].read_bytes(), args)
    print_table(found)
    return verdict(judge(found), found, args.json)


def measure(model: Path, images: Path, image: bytes, args: argparse.Namespace) -> dict[str, Any]:
    cores = os.sched_getaffinity(0)
    ours = {max(cores)}
    os.sched_setaffinity(0, ours)
    with (
        server(model, cores=cores - ours or cores) as (address, pid),
        proxy(address) if args.proxy else nullcontext(address) as url,
        busy() if cores - ours else nullcontext(),
    ):
        closed = ("--connections", CONNECTIONS, "--seconds", args.peak_seconds)
        before, _steal = load(url, images, *closed)
        exclusive = [ask(url, "POST", "/predict", image) for _request in range(20)]
        rate = args.times * before["images_per_s"]
        with Watcher(url, pid, image) as watcher:
            over, steal = load(url, images, "--rate", rate, "--seconds", args.seconds, attempts=1)
            sleep(AFTER_S)
        after, _steal = load(url, images, *closed)
        end = over["sent_by"]
        return {
            "peaks": [before, after],
            "over": over,
            "steal": steal,
            "asked_rate": rate,
            "offered_rate": over["offered"] / args.seconds,
            "alone_ms": sorted(answer.ms for answer in exclusive)[len(exclusive) // 2],
            "alone_right": all(answer.status == 200 for answer in exclusive),
            "right": sorted({answer.label or "" for answer in exclusive}),
            "health": [asdict(answer) for answer in watcher.health if answer.when <= end],
            "answers": [asdict(answer) for answer in watcher.answers],
            "samples": [asdict(sample) for sample in watcher.samples if sample.when <= end],
            "back_s": back(watcher.answers, end, exclusive),
            "deadline_s": float(os.environ.get("REQUEST_TIMEOUT_S") or 30),
        }


def back(answers: list[Answered], end: float, exclusive: list[Answered]) -> float | None:
    """s from the end of the load until requests are answered about as fast as before; None for never."""
    normal = 3 * max(answer.ms for answer in exclusive)
    after = [answer for answer in answers if answer.when >= end]
    slow = [answer for answer in after if answer.status != 200 or answer.ms > normal]
    if not after or (slow and slow[-1] is after[-1]):
        return None
    return slow[-1].when + slow[-1].ms / 1000 - end if slow else 0.0


def judge(found: dict[str, Any]) -> list[Bar]:
    over, deadline = found["over"], found["deadline_s"]
    errors = {status: n for status, n in over["errors"].items() if status != "429"}
    probes = {answer["status"] for answer in found["answers"]} - {200, 429}
    labels = {answer["label"] for answer in found["answers"] if answer["status"] == 200}
    health = sorted(answer["ms"] for answer in found["health"])
    slowest = over["max_ms"] or 0.0
    refused = over["p99_refused_ms"]
    peak = mean(peak["images_per_s"] for peak in found["peaks"])
    share = over["images_per_s"] / max(peak, 1e-9)
    samples = [Sample(**sample) for sample in found["samples"]]
    p99 = health[int(0.99 * (len(health) - 1))] if health else math.inf
    most = max(health, default=math.inf)
    return [
        Bar("every answer is 200 or 429", f"others: {errors or 'none'}", not errors and not probes),
        Bar("nothing is left unanswered", str(over["unanswered"]), over["unanswered"] == 0),
        Bar("a known image gets its label", f"{sorted(map(str, labels))}", labels <= set(found["right"])),
        Bar(
            "health answers 200 each time",
            f"{len(health)} times",
            bool(health) and {answer["status"] for answer in found["health"]} == {200},
        ),
        flat(samples),
        Bar(
            f"admitted: answered within {deadline:g} s",
            f"at most {slowest / 1000:.2f} s, p99 {(over['p99_ms'] or 0) / 1000:.2f} s",
            slowest <= 1000 * deadline,
        ),
        Bar(
            f"the rest: 429 within {REFUSED_MS:g} ms (p99)",
            f"p50 {over['p50_refused_ms'] or 0:.1f} ms, p99 {refused or 0:.1f} ms",
            refused is None or refused <= REFUSED_MS,
            speed=True,
        ),
        Bar(
            f"health within {HEALTH_MS:g} ms each time",
            f"p99 {p99:.1f} ms, at most {most:.1f} ms",
            most <= HEALTH_MS,
            speed=True,
        ),
        Bar("throughput within 10 % of the mean peak", f"{share:.2f} of it", share >= 0.9, speed=True),
        Bar(
            f"back to normal within {BACK_S:g} s",
            "not in time" if found["back_s"] is None else f"{found['back_s']:.1f} s",
            found["back_s"] is not None and found["back_s"] <= BACK_S,
            speed=True,
        ),
    ]


def print_table(found: dict[str, Any]) -> None:
    (before, after), over = found["peaks"], found["over"]
    print(
        f"peak {before['images_per_s']:.1f} images/s before and {after['images_per_s']:.1f} after, "
        f"at {CONNECTIONS} connections"
    )
    print(
        f"asked for {found['asked_rate']:.0f} requests/s, offered {found['offered_rate']:.0f} "
        f"({over['unsent']} could not be sent: every connection was busy)"
    )
    print(f"answered {over['images_per_s']:.1f}/s, others {over['errors']}, steal {found['steal']:.1f} %")


if __name__ == "__main__":
    sys.exit(main())
