"""What each part of the paper's network and training is worth on a small set of photographs.

    python -m benchmarks.ablation --data flowers17 --out runs/ablation

Every variant is trained from scratch with each seed and judged after its last epoch (no epoch is chosen
on the photographs that judge it), on one crop and on ten. Runs that are there already are not repeated;
the table is printed as Markdown.
"""

import argparse
import os
import re
import statistics
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from training.evaluate import evaluate, torch_classifier
from training.run import checkpoint
from training.run.held_out import load_held_out, record_of

COMMON = (
    "--recipe paper --width 0.25 --image-size 112 --epochs 60 --batch-size 32 --schedule cosine --lr 0.01 "
    "--weight-init kaiming --device cpu --workers 1 --keep 1"
)
VARIANTS = {
    "the paper's": (),
    "without LRN": ("--no-lrn",),
    "without LRN, a third of the rate": ("--no-lrn", "--lr", "0.003"),
    "plain pooling": ("--pooling", "plain"),
    "without dropout": ("--no-dropout",),
    "without PCA colour": ("--no-pca",),
    "without crops and mirroring": ("--no-crops",),
    "tanh for ReLU": ("--activation", "tanh"),
}


def run(data: Path, out: Path, options: tuple[str, ...], seed: int) -> None:
    """On one thread, so that as many runs as there are cores do not wait for each other."""
    if (out / "last.pt").is_file():
        state = checkpoint.load(out / "last.pt")
        if state.epoch == state.config.epochs:
            return
    out.parent.mkdir(parents=True, exist_ok=True)
    command = [
        sys.executable,
        "-m",
        "training",
        "train",
        "--data",
        str(data),
        "--out",
        str(out),
        "--resume",
    ]
    command += [*COMMON.split(), *options, "--seed", str(seed)]
    with out.with_suffix(".log").open("a") as log:
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        subprocess.run(command, check=True, stdout=log, stderr=subprocess.STDOUT, env=environment)


def errors(data: Path, out: Path) -> tuple[float, float]:
    """-> top-1 error in per cent on one crop and on ten."""
    state = checkpoint.load(out / "last.pt")
    split = load_held_out(data, record_of(state)).split
    classify = torch_classifier(checkpoint.restore_model(state), state.mean, state.std)
    one, ten = (evaluate(classify, split, state.recipe, n) for n in (1, 10))
    return 100 - 100 * one.top1, 100 - 100 * ten.top1


def spread(values: list[float]) -> str:
    return f"{statistics.mean(values):.1f} ± {statistics.stdev(values):.1f}"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="has train/ and val/")
    parser.add_argument("--out", type=Path, required=True, help="folder for the runs")
    parser.add_argument(
        "--seeds", type=int, default=5, help="runs of each variant, two at least (default 5)"
    )
    parser.add_argument("--jobs", type=int, default=2, help="runs at a time (default 2)")
    options = parser.parse_args()
    todo = [(name, seed) for seed in range(options.seeds) for name in VARIANTS]

    def place(name: str, seed: int) -> Path:
        folder = "-".join(re.findall(r"\w+", f"{name} {seed}"))
        return Path(options.out / folder)

    with ThreadPoolExecutor(options.jobs) as pool:
        list(pool.map(lambda one: run(options.data, place(*one), VARIANTS[one[0]], one[1]), todo))
    print(
        f"`{COMMON}`\n\n| variant | top-1 error, % | of ten crops | beside the paper's |\n|---|---|---|---|"
    )
    found = {
        name: [errors(options.data, place(name, seed)) for seed in range(options.seeds)]
        for name in VARIANTS
    }
    for name, pairs in found.items():
        one, ten = (list(column) for column in zip(*pairs, strict=True))
        apart = [value - first[0] for value, first in zip(one, found["the paper's"], strict=True)]
        print(f"| {name} | {spread(one)} | {spread(ten)} | {spread(apart)} |")
    seconds = sum(checkpoint.load(place(*one) / "last.pt").provenance["seconds"] for one in todo)
    print(f"\n{len(todo)} runs, {seconds / 60:.0f} minutes of one core each")


if __name__ == "__main__":
    main()
