"""Measure the speed of training in images/s, and how much of the time the data loading costs.

    python -m benchmarks.train --data flowers17

"bare" is forward, backward and optimiser on synthetic pixels; "loop" reads, augments and trains from a
prepared folder, as `python -m training train` does; "loader" only reads and augments. Before that, it times
different exact forms of the local response normalisation, forward and backward.
"""

import argparse
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.support.machine import STEAL_LIMIT, Watch
from contract.limits import usable_cores
from training.batches import Batch, augmented, load_ahead
from training.config import Config
from training.data.augment import colour_components
from training.data.prepared import Dataset, prepare
from training.distributed import Ranks
from training.model import LRN_ALPHA, LRN_K, LRN_SIZE, LocalResponseNorm
from training.start.init_run import init_run
from training.train import Trainer

ROUNDS = 3  # of each kind, by turns, so that disturbances affect all


class Setup:
    """A prepared folder, and a network that has been trained for one step."""

    def __init__(self, config: Config, dataset: Dataset, folder: Path) -> None:
        self.config, self.dataset = config, dataset
        self.ranks = Ranks(torch.device("cuda" if torch.cuda.is_available() else "cpu"))
        state, _words = init_run(config, dataset, folder, resumed=None, start=None)
        self.trainer = Trainer(state, colour_components(dataset.covariance), self.ranks)
        self.trainer.step(self.batches(1), 0, config.lr)

    def batches(self, steps: int) -> Iterator[Batch]:
        return load_ahead(
            self.dataset,
            self.config,
            batch_size=self.config.batch_size,
            steps=range(steps),
            ranks=self.ranks,
            workers=usable_cores(),
        )

    def bare(self, steps: int) -> None:
        trainer, size = self.trainer, self.config.image_size
        pixels = torch.randn(self.config.batch_size, 3, size, size, device=self.ranks.device)
        pixels = pixels.contiguous(memory_format=torch.channels_last)
        targets = torch.zeros(len(pixels), dtype=torch.int64, device=self.ranks.device)
        for _step in range(steps):
            trainer.optimizer.zero_grad()
            F.cross_entropy(trainer.network(pixels), targets).backward()  # type: ignore[no-untyped-call]
            trainer.optimizer.step()

    def loop(self, steps: int) -> None:
        batches = self.batches(steps)
        for step in range(steps):
            self.trainer.step(batches, step, self.config.lr)

    def loader(self, steps: int) -> None:
        for batch in self.batches(steps):
            augmented(batch, self.config, len(self.dataset.classes), self.trainer.colours)


def power_form(norm: LocalResponseNorm, x: Tensor) -> Tensor:
    return x * F.conv2d(x * x, norm.band, norm.k).pow(-0.75)


def root_form(norm: LocalResponseNorm, x: Tensor) -> Tensor:
    r = F.conv2d(x * x, norm.band, norm.k).rsqrt()
    return x * (r * r.sqrt())


def backward_through(form: Callable[[Tensor], Tensor], x: Tensor) -> None:
    form(x).sum().backward()  # type: ignore[no-untyped-call]


def normalisations(channels: int) -> dict[str, Callable[[Tensor], Tensor]]:
    ours = LocalResponseNorm(channels)
    return {
        "torch.nn.LocalResponseNorm": nn.LocalResponseNorm(LRN_SIZE, LRN_ALPHA * LRN_SIZE, 0.75, LRN_K),
        "banded convolution and a power": partial(power_form, ours),
        "banded convolution and roots": partial(root_form, ours),
        "the same with its own backward (ours)": ours,
    }


def time_normalisations() -> None:
    for channels, side in ((96, 55), (256, 27)):
        print(f"\nnormalisation of 32 x {channels} x {side} x {side}, ms forward and backward")
        x = torch.randn(32, channels, side, side).contiguous(memory_format=torch.channels_last)
        x.requires_grad_()
        for name, form in normalisations(channels).items():
            best = min(seconds(partial(backward_through, form, x)) for _ in range(5))
            print(f"{name:40}{1000 * best:8.1f}")


def seconds(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - started


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="photographs, a folder per class")
    parser.add_argument("--width", type=float, default=1.0, help="factor on every layer (default 1)")
    parser.add_argument("--batch-size", type=int, default=128, help="images per step (default 128)")
    parser.add_argument("--steps", type=int, default=4, help="steps per measurement (default 4)")
    options = parser.parse_args()
    torch.backends.cudnn.allow_tf32 = False  # as training does
    time_normalisations()
    config = Config(width=options.width, batch_size=options.batch_size)
    rates: dict[str, list[float]] = {"bare": [], "loop": [], "loader": []}
    with tempfile.TemporaryDirectory() as folder, Watch() as watch:
        setup = Setup(config, prepare(options.data, Path(folder) / "ready", config), Path(folder) / "run")
        for _round in range(ROUNDS):
            for name, values in rates.items():
                spent = seconds(partial(getattr(setup, name), options.steps))
                values.append(options.steps * config.batch_size / spent)
    print(f"\nwidth {config.width:g}, batches of {config.batch_size} on {setup.ranks.device}, images/s")
    for name, values in rates.items():
        print(f"{name:8}{max(values):9.1f}   of {', '.join(f'{value:.1f}' for value in values)}")
    print(f"the full loop: {max(rates['loop']) / max(rates['bare']):.0%} of the bare network (goal 90 %)")
    print(f"steal {watch.steal:.1f} %{', disturbed: run it again' if watch.steal > STEAL_LIMIT else ''}")


if __name__ == "__main__":
    main()
