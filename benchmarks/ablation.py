"""Measure what each part of the paper's network and training contributes on a small data set.

    python -m benchmarks.ablation --data flowers17 --out runs/ablation

Every variant is trained from scratch with each seed and evaluated after its last epoch, on one crop and on
ten; no epoch is chosen on the photographs of the evaluation. Finished runs in --out are not repeated. The
table is printed as Markdown.
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
    """Train one run on one thread, so that runs on different cores do not wait for each other."""
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
    """Return the top-1 error in percent, on one crop and on ten."""
    state = checkpoint.load(out / "last.pt")
    split = load_held_out(data, record_of(state)).split
    classify = torch_classifier(checkpoint.restore_model(state), state.mean, state.std)
    single, ten = (evaluate(classify, split, state.recipe, n) for n in (1, 10))
    return 100 - 100 * single.top1, 100 - 100 * ten.top1


def mean_and_deviation(values: list[float]) -> str:
    return f"{statistics.mean(values):.1f} ± {statistics.stdev(values):.1f}"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="has train/ and val/")
    parser.add_argument("--out", type=Path, required=True, help="folder for the runs")
    parser.add_argument("--seeds", type=int, default=5, help="runs of each variant, at least 2 (default 5)")
    parser.add_argument("--jobs", type=int, default=2, help="runs at a time (default 2)")
    options = parser.parse_args()
    runs = [(name, seed) for seed in range(options.seeds) for name in VARIANTS]

    def folder_of(name: str, seed: int) -> Path:
        folder = "-".join(re.findall(r"\w+", f"{name} {seed}"))
        return Path(options.out / folder)

    with ThreadPoolExecutor(options.jobs) as pool:
        list(pool.map(lambda r: run(options.data, folder_of(*r), VARIANTS[r[0]], r[1]), runs))
    print(
        f"`{COMMON}`\n\n"
        "| variant | top-1 error, % | ten crops | difference to the paper's |\n|---|---|---|---|"
    )
    results = {
        name: [errors(options.data, folder_of(name, seed)) for seed in range(options.seeds)]
        for name in VARIANTS
    }
    for name, pairs in results.items():
        single, ten = (list(column) for column in zip(*pairs, strict=True))
        difference = [value - base[0] for value, base in zip(single, results["the paper's"], strict=True)]
        print(f"| {name} | {' | '.join(map(mean_and_deviation, (single, ten, difference)))} |")
    seconds = sum(checkpoint.load(folder_of(*r) / "last.pt").provenance["seconds"] for r in runs)
    print(f"\n{len(runs)} runs, {seconds / 60:.0f} minutes of one core each")


if __name__ == "__main__":
    main()
