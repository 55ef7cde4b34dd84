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
from training.data.prepared import Dataset
from training.distributed import Ranks
from training.errors import ConfigError, DataError
from training.seeding import AUGMENTATION, BACKGROUND, DETAIL, ORDER, generator_of

AHEAD = 2  # batches loaded while one is being trained on
BACKGROUND_SHARE = 0.5  # background pictures for each image of a batch


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

    `squares` (n, resize, resize, 3) uint8, `labels` (n,) int64. `background` (b, resize, resize, 3) are
    pictures of none of the classes; b is 0 without any. `waited` is the time in seconds that the training
    loop waited for them.
    """

    step: int
    total: int
    rows: slice
    squares: Tensor
    labels: Tensor
    background: Tensor
    waited: float


def load_ahead(
    dataset: Dataset,
    config: Config,
    *,
    batch_size: int,
    steps: Iterable[int],
    ranks: Ranks,
    workers: int,
) -> Iterator[Batch]:
    """Yield this process's share of each step's batch, in `config.accumulate` pieces.

    If the data set has background pictures, each piece gets BACKGROUND_SHARE as many, drawn for each step.
    `workers` threads read the images. Each epoch has its own order, drawn from the run's seed; images left
    over at its end are not used in that epoch.
    """
    split, background = dataset.train, dataset.background
    per_epoch = len(split) // batch_size
    size = batch_size // ranks.world // config.accumulate
    extra = 0 if background is None else max(1, round(BACKGROUND_SHARE * size))
    pieces_per_step = ranks.world * config.accumulate

    def pieces() -> Iterator[tuple[int, slice, Tensor, Tensor]]:
        epoch, order = -1, torch.empty(0)
        for step in steps:
            if step // per_epoch != epoch:
                epoch = step // per_epoch
                order = torch.randperm(len(split), generator=generator_of(config.seed, ORDER, epoch))
            first = step % per_epoch * batch_size
            others = torch.randint(
                0,
                max(1, len(background or ())),
                (pieces_per_step, extra),
                generator=generator_of(config.seed, BACKGROUND, step),
            )
            for turn in range(config.accumulate):
                piece = turn * ranks.world + ranks.rank
                start = piece * size
                yield (
                    step,
                    slice(start, start + size),
                    order[first + start : first + start + size],
                    others[piece],
                )

    def load(indices: Tensor, others: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        squares = split.squares(indices)
        extras = squares[:0] if background is None else background.squares(others)
        if ranks.device.type == "cuda":
            squares, extras = squares.pin_memory(), extras.pin_memory()
        return squares, split.labels[indices], extras

    with ThreadPoolExecutor(workers) as pool:
        loads = ((step, rows, pool.submit(load, *indices)) for step, rows, *indices in pieces())
        loading = deque(islice(loads, AHEAD))
        while loading:
            step, rows, future = loading.popleft()
            started = time.monotonic()
            squares, labels, extras = future.result()
            waited = time.monotonic() - started
            loading.extend(islice(loads, 1))
            yield Batch(
                step, batch_size, rows, squares=squares, labels=labels, background=extras, waited=waited
            )


def augmented(batch: Batch, config: Config, classes: int, colours: Tensor) -> tuple[Tensor, Tensor]:
    """Crop, mirror, colour and mix a batch -> pixels (n, 3, H, W), 0 to 255, and targets (n, classes).

    Both are float32 on the device of `colours`, where they are computed.
    """
    generator = generator_of(config.seed, AUGMENTATION, batch.step)
    draws = augment.Draws(generator, batch.total, batch.rows)
    labels = batch.labels.to(colours.device, non_blocking=True)
    pixels = _augmented(batch.squares, config, colours, draws)
    targets = F.one_hot(labels, classes).float()
    targets = targets * (1 - config.label_smoothing) + config.label_smoothing / classes
    if len(batch.background):
        pixels, targets = _with_background(pixels, targets, batch, config, colours)
    if float(torch.rand((), generator=generator)) < config.mix:
        pixels, targets = augment.mix(pixels, targets, generator)  # only with images of the same piece
    return pixels, targets


def _augmented(squares: Tensor, config: Config, colours: Tensor, draws: augment.Draws) -> Tensor:
    squares = squares.to(colours.device, non_blocking=True)
    if config.augment == "paper":
        return augment.paper(squares, config.image_size, colours, draws, config.crops)
    return augment.strong(squares, config.image_size, draws)


def _with_background(
    pixels: Tensor, targets: Tensor, batch: Batch, config: Config, colours: Tensor
) -> tuple[Tensor, Tensor]:
    """Add the background pictures, for which every class is equally probable.

    Some of all images are coarsened, because the two kinds may differ in sharpness, which is then no hint.
    """
    extra, size = len(batch.background), len(batch.squares)
    piece = batch.rows.start // size
    generator = generator_of(config.seed, DETAIL, batch.step)
    rows = slice(piece * extra, (piece + 1) * extra)
    draws = augment.Draws(generator, batch.total // size * extra, rows)
    others = _augmented(batch.background, config, colours, draws)
    uniform = targets.new_full((extra, targets.shape[1]), 1 / targets.shape[1])
    return augment.coarsen(torch.cat([pixels, others]), generator), torch.cat([targets, uniform])
