"""Compare the servers of two checkouts with the same model file, photographs and load.

    git worktree add ../old REVISION
    python -m benchmarks.versions --old ../old --images FOLDER

In every turn, both servers are started and loaded one after the other, in alternating order. So
disturbances of the machine affect both, and the memory layout, which a process keeps for its life, varies.
After the closed loops comes an open loop at `--share` of the old server's best rate. Ratios are those of
the means of all turns, or of the percentiles of all latencies, with the standard error over the turns.
Settings in the environment (DECODE_PROCESSES, OTEL_EXPORTER_OTLP_ENDPOINT, ...) apply to both.
"""

import argparse
import json
import math
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from benchmarks.serve import load, server
from benchmarks.support.load import FORMS, percentile


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--old", type=Path, required=True, help="checkout to compare with")
    parser.add_argument("--new", type=Path, default=Path(), help="checkout (default: the current folder)")
    parser.add_argument("--model", type=Path, default=Path("models/flowers17.onnx"))
    parser.add_argument("--images", type=Path, required=True, help="folder of JPEG files")
    parser.add_argument("--form", choices=FORMS, default="bare", help="form of the body")
    parser.add_argument("--connections", type=int, nargs="+", default=[1, 8, 32, 64])
    parser.add_argument(
        "--share",
        type=float,
        default=0.7,
        help="fraction of the best rate for the open loop; 0: no open loop",
    )
    parser.add_argument("--seconds", type=float, default=4.0, help="per turn")
    parser.add_argument("--turns", type=int, default=6, help="per load, at least 2")
    parser.add_argument("--json", type=Path, help="file for all results")
    args = parser.parse_args()
    rows: dict[str, Any] = {}
    heads = "images/s     old         ratio  p50 ms     old  p99 ms     old         ratio"
    print(f"{'load':<16} {heads}")

    def row(name: str, *options: object) -> float:
        """Measure a load and print its row; return images/s of the old server."""
        load_options = (
            *options,
            "--form",
            args.form,
            "--model",
            args.model.stem,
            "--seconds",
            args.seconds,
        )
        turns: list[list[dict[str, Any]]] = [[], []]
        for turn in range(args.turns):
            with server(args.model, checkout=args.new) as new, server(args.model, checkout=args.old) as old:
                for which in (0, 1) if turn % 2 else (1, 0):
                    url, _pid = (new, old)[which]
                    turns[which].append(load(url, args.images, *load_options, "--warm-up", 1)[0])
        rows[name] = compared(*turns)
        print(f"{name:<16}{line(rows[name])}", flush=True)
        return float(rows[name]["old"]["images_per_s"])

    best = max(row(f"{count} connections", "--connections", count) for count in args.connections)
    if args.share:
        row(f"{args.share:.0%} of the best", "--rate", args.share * best)
    if args.json is not None:
        args.json.write_text(json.dumps(rows, indent=1))


def compared(new: list[dict[str, Any]], old: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the ratios of new to old over the turns of a load, each with its standard error."""
    result: dict[str, Any] = {}
    for name, turns in (("new", new), ("old", old)):
        times = sorted(ms for turn in turns for ms in turn["times_ms"])
        result[name] = {"images_per_s": mean(turn["images_per_s"] for turn in turns)}
        result[name] |= {f"p{p}_ms": percentile(times, p / 100) or math.nan for p in (50, 99)}
        result[name]["errors"] = [turn["errors"] for turn in turns if turn["errors"]]
    for key in ("images_per_s", "p99_ms"):
        pairs = [mine[key] / theirs[key] for mine, theirs in zip(new, old, strict=True)]
        result[key] = result["new"][key] / result["old"][key], stdev(pairs) / math.sqrt(len(pairs))
    return result


def line(row: dict[str, Any]) -> str:
    new, old = row["new"], row["old"]
    rate, tail = (f"{ratio:.2f} +- {error:.2f}" for ratio, error in (row["images_per_s"], row["p99_ms"]))
    times = "".join(f"{side[p]:8.1f}" for p in ("p50_ms", "p99_ms") for side in (new, old))
    text = f"{new['images_per_s']:9.1f}{old['images_per_s']:8.1f}{rate:>14}{times}{tail:>14}"
    return text + "".join(f"  errors: {errors}" for errors in (*new["errors"], *old["errors"]))


if __name__ == "__main__":
    main()
