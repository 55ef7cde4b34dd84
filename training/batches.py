"""Load the batches of a run ahead of the steps that use them, and augment them on the device."""

import time
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice

import torch
import torch.nn.functional as F
from torch import Tensor

from training.config import Config
from training.data import augment
from training.data.images import Split
from training.distributed import Ranks
from training.errors import ConfigError, DataError
from training.seeding import AUGMENTATION, ORDER, generator_of

AHEAD = 2  # batches loaded while one is being trained on


def batch_size_of(config: Config, images: int, ranks: Ranks) -> int:
    """Return the number of images in a step, over all processes: as configured, or all if there are fewer.

    Raises DataError if there are fewer images than pieces of a batch.
    """
    pieces = ranks.world * config.accumulate
    if images < pieces:
        raise DataError(
            f"{images} images to train on; a step needs at least {pieces}, one for each piece of a batch"
        )
    return min(config.batch_size, images // pieces * pieces)


def require_whole_pieces(config: Config, ranks: Ranks) -> None:
    """Raise ConfigError if a batch cannot be divided evenly among the processes and their pieces."""
    if config.batch_size % (ranks.world * config.accumulate):
        raise ConfigError(
            f"--batch-size is {config.batch_size}; it must be a multiple of {ranks.world} processes times "
            f"accumulate, {config.accumulate}"
        )


@dataclass(frozen=True)
class Batch:
    """One piece of a step's batch: the images `rows` of the `total` images of step `step`.

    `squares` (n, resize, resize, 3) uint8, `labels` (n,) int64. `waited` is the time in seconds that the
    training loop waited for them.
    """

    step: int
    total: int
    rows: slice
    squares: Tensor
    labels: Tensor
    waited: float


def load_ahead(
    split: Split, config: Config, *, batch_size: int, steps: Iterable[int], ranks: Ranks, workers: int
) -> Iterator[Batch]:
    """Yield this process's share of each step's batch, in `config.accumulate` pieces.

    `workers` threads read the images. Each epoch has its own order, drawn from the run's seed; images left
    over at its end are not used in that epoch.
    """
    per_epoch = len(split) // batch_size
    size = batch_size // ranks.world // config.accumulate

    def pieces() -> Iterator[tuple[int, slice, Tensor]]:
        epoch, order = -1, torch.empty(0)
        for step in steps:
            if step // per_epoch != epoch:
                epoch = step // per_epoch
                order = torch.randperm(len(split), generator=generator_of(config.seed, ORDER, epoch))
            first = step % per_epoch * batch_size
            for turn in range(config.accumulate):
                start = (turn * ranks.world + ranks.rank) * size
                yield step, slice(start, start + size), order[first + start : first + start + size]

    def load(indices: Tensor) -> tuple[Tensor, Tensor]:
        squares = split.squares(indices)
        return squares.pin_memory() if ranks.device.type == "cuda" else squares, split.labels[indices]

    with ThreadPoolExecutor(workers) as pool:
        loads = ((step, rows, pool.submit(load, indices)) for step, rows, indices in pieces())
        loading = deque(islice(loads, AHEAD))
        while loading:
            step, rows, future = loading.popleft()
            started = time.monotonic()
            squares, labels = future.result()
            waited = time.monotonic() - started
            loading.extend(islice(loads, 1))
            yield Batch(step, batch_size, rows, squares=squares, labels=labels, waited=waited)


def augmented(batch: Batch, config: Config, classes: int, colours: Tensor) -> tuple[Tensor, Tensor]:
    """Crop, mirror, colour and mix a batch -> pixels (n, 3, H, W), 0 to 255, and targets (n, classes).

    Both are float32 on the device of `colours`, where they are computed.
    """
    generator = generator_of(config.seed, AUGMENTATION, batch.step)
    draws = augment.Draws(generator, batch.total, batch.rows)
    squares = batch.squares.to(colours.device, non_blocking=True)
    labels = batch.labels.to(colours.device, non_blocking=True)
    if config.augment == "paper":
        pixels = augment.paper(squares, config.image_size, colours, draws, config.crops)
    else:
        pixels = augment.strong(squares, config.image_size, draws)
    targets = F.one_hot(labels, classes).float()
    targets = targets * (1 - config.label_smoothing) + config.label_smoothing / classes
    if float(torch.rand((), generator=generator)) < config.mix:
        pixels, targets = augment.mix(pixels, targets, generator)  # only with images of the same piece
    return pixels, targets
