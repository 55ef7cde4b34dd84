"""The training loop, read from top to bottom: data, network, epochs, steps, checkpoints."""

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType

import torch
from tqdm import tqdm

from contract.limits import usable_cores
from training import augment, checkpoint
from training.batches import load_ahead
from training.checkpoint import CheckpointError
from training.config import Config, ConfigError
from training.data import DataError
from training.distributed import Ranks
from training.evaluate import evaluate
from training.learner import Learner
from training.log import EpochRow, Log
from training.optim import learning_rate, update_plateau
from training.prepared import load_dataset
from training.start import begin


class Interrupted(Exception):
    """Ctrl-C or SIGTERM; a checkpoint has been written."""


def train(
    config: Config,
    data: Path,
    out: Path,
    ranks: Ranks,
    weights: Path | None = None,
    resume: bool = False,
    workers: int | None = None,
    keep: int = 2,
    class_count: int | None = None,
) -> None:
    """Trains into the run folder `out`: config.toml, metrics.csv, tensorboard/, last.pt, best.pt, and of
    step-N.pt the newest `keep`.

    `weights`, a run folder or checkpoint, gives the first values of every layer whose shape fits. A
    run that was stopped anywhere and resumed on the same machine ends with the same weights, bit for
    bit. Raises ConfigError, DataError, CheckpointError, or Interrupted.
    """
    if out.is_dir() and any(out.iterdir()) and not resume:
        raise CheckpointError(f"{out} is not empty; add --resume, or choose another folder")
    say = print if ranks.first else _nothing
    dataset = load_dataset(data, config, workers)
    classes, skipped = dataset.classes, dataset.train.skipped + dataset.val.skipped
    if class_count not in {None, len(classes)}:
        raise DataError(f"--classes is {class_count}, and {data} has {len(classes)} class folders")
    say(*(f"skipped {problem}" for problem in skipped), sep="\n", end="\n" if skipped else "")
    say(
        f"{len(dataset.train)} images to train on, {len(dataset.val)} to validate on, "
        f"{len(classes)} classes, {len(skipped)} skipped"
    )
    # Without variance there is no shift, and every other draw stays.
    covariance = dataset.covariance if config.pca else torch.zeros(3, 3).double()
    batch_size = _batch_size(config, len(dataset.train), ranks)
    steps = len(dataset.train) // batch_size

    state, words = begin(config, dataset, out, resume, weights)
    state.data = str(data.resolve())
    say(words)
    learner = Learner(state, augment.colour_components(covariance), ranks)
    classify = learner.classifier()
    ranks.wait()  # until all have looked at `out`
    if ranks.first:
        out.mkdir(parents=True, exist_ok=True)
        (out / "config.toml").write_text(config.to_toml())

    def save(step: int, best: bool = False) -> None:
        learner.store(state)
        state.step = step
        if ranks.first:
            checkpoint.save_step(state, out, keep, best)

    stopping = _catch_signals()
    parameters = sum(p.numel() for p in learner.model.parameters())
    say(f"{parameters:,} parameters, {steps} steps an epoch, {ranks.world} x {ranks.device}")
    with Log(out if ranks.first else None, state.epoch, state.step) as log:
        for epoch in range(state.epoch, config.epochs):
            started, seconds_before = time.monotonic(), state.epoch_seconds
            first, last = epoch * steps, (epoch + 1) * steps
            bar = tqdm(
                desc=f"epoch {epoch + 1}/{config.epochs}",
                total=steps * batch_size,
                initial=(state.step - first) * batch_size,
                unit="img",
                leave=False,
                disable=None if ranks.first else True,  # None: no bar where the output is no terminal
            )
            todo = range(state.step, last)
            batches = load_ahead(dataset.train, config, batch_size, todo, ranks, workers or usable_cores())
            for step in todo:
                lr = learning_rate(config, state.schedule, step, steps)
                loss, waited = learner.step(batches, step, lr)
                # The mean loss of all processes; a signal to one of them stops all after this step.
                loss, stop = ranks.total(torch.tensor([loss, stopping()], dtype=torch.float64)).tolist()
                state.epoch_loss += loss / ranks.world
                state.epoch_waited += waited
                log.step(step + 1, loss / ranks.world, lr)
                bar.update(batch_size)
                bar.set_postfix(loss=f"{state.epoch_loss / (step + 1 - first):.3f}", lr=f"{lr:.2g}")
                if stop:
                    bar.close()
                    state.epoch_seconds = seconds_before + time.monotonic() - started
                    save(step + 1)
                    raise Interrupted(f"stopped after step {step + 1}, saved; go on with --resume")
            bar.close()
            trained = seconds_before + time.monotonic() - started

            result = ranks.merge(evaluate(classify, ranks.part(dataset.val), config.recipe))
            seconds = seconds_before + time.monotonic() - started
            row = EpochRow(
                epoch=epoch + 1,
                loss=state.epoch_loss / steps,
                top1=result.top1,
                top5=result.top5,
                lr=learning_rate(config, state.schedule, last - 1, steps),
                images_per_second=steps * batch_size / trained,
                data_wait=state.epoch_waited / trained,
            )
            update_plateau(state.schedule, result.top1)
            state.metrics = {"images": result.images, "top1": result.top1, "top5": result.top5}
            better = result.top1 > state.best.get("top1", -1.0)
            if better:
                state.best = {"epoch": epoch + 1, **state.metrics}
            state.epoch = epoch + 1
            state.provenance["seconds"] += seconds
            state.epoch_loss = state.epoch_seconds = state.epoch_waited = 0.0
            log.epoch(last, row)
            save(last, better)
            say(
                f"epoch {row.epoch}/{config.epochs}  loss {row.loss:.3f}  top-1 {row.top1:.1%}  "
                f"top-5 {row.top5:.1%}  {row.images_per_second:.0f} img/s, {row.data_wait:.0%} of the time "
                f"waiting for data  {seconds * (config.epochs - row.epoch) / 60:.0f} min left",
                flush=True,
            )
    best = state.best
    say(f"best: top-1 {best['top1']:.1%} after epoch {best['epoch']}, in {out / 'best.pt'}")


def _nothing(*_words: object, **_how: object) -> None:
    """What the processes other than the first say."""


def _batch_size(config: Config, images: int, ranks: Ranks) -> int:
    """Of all processes together: that of the configuration, less if there are fewer images."""
    pieces = ranks.world * config.accumulate
    if config.batch_size % pieces:
        raise ConfigError(
            f"batch_size is {config.batch_size}; it must be a multiple of {pieces}, {ranks.world} "
            f"process(es) times accumulate {config.accumulate}"
        )
    if images < pieces:
        raise DataError(
            f"{images} images to train on; a step needs {pieces}, one for each piece of a batch"
        )
    return min(config.batch_size, images // pieces * pieces)


def _catch_signals() -> Callable[[], bool]:
    """-> a function that says whether Ctrl-C or SIGTERM has come; a second one ends the program."""
    caught: list[int] = []

    def handle(number: int, _frame: FrameType | None) -> None:
        if caught:
            os._exit(128 + number)  # SIG_DFL would not end the first process of a container
        caught.append(number)

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, handle)
    return lambda: bool(caught)
