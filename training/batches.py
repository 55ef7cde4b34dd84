"""From the indices of a batch to augmented pixels and targets, loaded ahead of the step that wants them."""

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
from training.optim import AUGMENTATION, ORDER, generator_of

AHEAD = 2  # batches that are loaded while one is trained on


def batch_size_of(config: Config, images: int, ranks: Ranks) -> int:
    """The images of a step, of all processes together: as configured, or all there are if those are fewer.

    Raises DataError.
    """
    pieces = ranks.world * config.accumulate
    if images < pieces:
        raise DataError(
            f"{images} images to train on; a step needs {pieces}, one for each piece of a batch"
        )
    return min(config.batch_size, images // pieces * pieces)


def require_whole_pieces(config: Config, ranks: Ranks) -> None:
    """Raise ConfigError if a batch can't be shared evenly among the processes and their pieces."""
    if config.batch_size % (ranks.world * config.accumulate):
        raise ConfigError(
            f"--batch-size is {config.batch_size}; it must be a multiple of {ranks.world} processes times "
            f"accumulate, {config.accumulate}"
        )


@dataclass(frozen=True)
class Batch:
    """`squares` (n, resize, resize, 3) uint8 and `labels` (n,) int64: the images `rows` of the `total`
    of step `step`. `waited` is the time in seconds for which the loop had to wait for them.
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
    """This process's share of every step's batch, in `config.accumulate` pieces, read by `workers` threads.

    Each epoch has an order of its own, drawn from the run's seed; what is left over at its end is not
    used in it.
    """
    per_epoch = len(split) // batch_size
    size = batch_size // ranks.world // config.accumulate

    def wanted() -> Iterator[tuple[int, slice, Tensor]]:
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
        todo = ((step, rows, pool.submit(load, indices)) for step, rows, indices in wanted())
        loading = deque(islice(todo, AHEAD))
        while loading:
            step, rows, future = loading.popleft()
            started = time.monotonic()
            squares, labels = future.result()
            waited = time.monotonic() - started
            loading.extend(islice(todo, 1))
            yield Batch(step, batch_size, rows, squares=squares, labels=labels, waited=waited)


def augmented(batch: Batch, config: Config, classes: int, colours: Tensor) -> tuple[Tensor, Tensor]:
    """-> pixels (n, 3, H, W), 0 to 255, and targets (n, classes), float32, on the device of `colours`,
    where crop, mirror and colour are computed too.
    """
    generator = generator_of(config.seed, AUGMENTATION, batch.step)
    draws = augment.Draws(generator, batch.total, batch.rows)
    squares = batch.squares.to(colours.device, non_blocking=True)
    labels = batch.labels.to(colours.device)
    if config.augment == "paper":
        pixels = augment.paper(squares, config.image_size, colours, draws, config.crops)
    else:
        pixels = augment.strong(squares, config.image_size, draws)
    targets = F.one_hot(labels, classes).float()
    targets = targets * (1 - config.label_smoothing) + config.label_smoothing / classes
    if float(torch.rand((), generator=generator)) < config.mix:
        pixels, targets = augment.mix(pixels, targets, generator)  # within the part, with its neighbours
    return pixels, targets
