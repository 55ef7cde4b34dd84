"""The training loop, read from top to bottom: data, model, optimiser, epochs, checkpoints."""

import csv
import signal
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from types import FrameType
from typing import Final, cast

import torch
import torch.nn.functional as F
from torch import nn
from tqdm import tqdm

from training import augment, checkpoint
from training.batches import augmented, load_ahead
from training.checkpoint import Checkpoint, CheckpointError
from training.config import Config, ConfigError
from training.data import DataError, cores
from training.distributed import Ranks
from training.evaluate import evaluate, normalise, torch_classifier
from training.model import AlexNet
from training.optim import (
    DROPOUT,
    learning_rate,
    make_optimizer,
    seed_of,
    update_average,
    update_plateau,
)
from training.prepared import Dataset, load_dataset
from training.provenance import run_provenance

AUTOCAST: Final = {"bf16": torch.bfloat16, "fp16": torch.float16}


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
    """Trains into the run folder `out`: config.toml, metrics.csv, last.pt, best.pt, and of step-N.pt the
    newest `keep`.

    `weights`, a run folder or checkpoint, gives the first values of every layer whose shape fits. A
    run that was stopped anywhere and resumed on the same machine ends with the same weights, bit for
    bit. Raises ConfigError, DataError, CheckpointError, or Interrupted.
    """
    if out.is_dir() and any(out.iterdir()) and not resume:
        raise CheckpointError(f"{out} is not empty; add --resume, or choose another folder")
    device = ranks.device
    dataset = load_dataset(data, config, workers)
    classes = dataset.classes
    if class_count not in {None, len(classes)}:
        raise DataError(f"--classes is {class_count}, and {data} has {len(classes)} class folders")
    skipped = dataset.train.skipped + dataset.val.skipped
    if ranks.first:
        print(*(f"skipped {problem}" for problem in skipped), sep="\n", end="\n" if skipped else "")
        print(
            f"{len(dataset.train)} images to train on, {len(dataset.val)} to validate on, "
            f"{len(classes)} classes, {len(skipped)} skipped"
        )
    mean = dataset.mean
    # Without variance there is no shift, and every other draw stays.
    covariance = dataset.covariance if config.pca else torch.zeros(3, 3).double()
    colours = augment.colour_components(covariance).to(device)
    batch_size = _batch_size(config, len(dataset.train), ranks)
    steps = len(dataset.train) // batch_size

    torch.manual_seed(config.seed)
    model = AlexNet(len(classes), config.width, config.weight_init, config.image_size, config.variant)
    state = Checkpoint(config, classes, mean.tolist(), model.state_dict())
    state.provenance = run_provenance(dataset)
    if resume and (out / "last.pt").is_file():
        state = checkpoint.load(out / "last.pt")
        _same_run(state, config, dataset, out)
    elif weights is not None:
        source = checkpoint.load(checkpoint.find(weights))
        fresh = _take_weights(model, config, source)
        if ranks.first:
            print(f"starts from {weights}; afresh: {fresh}")
        state.model = model.state_dict()
        state.provenance["started_from"] = {"config": asdict(source.config), **source.provenance}
    ranks.wait()  # until all have looked at `out`
    if ranks.first:
        out.mkdir(parents=True, exist_ok=True)
        (out / "config.toml").write_text(config.to_toml())

    model.load_state_dict(state.raw if state.raw is not None else state.model)
    model.to(device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimizer = make_optimizer(model, config)
    if state.optimizer:
        optimizer.load_state_dict(state.optimizer)
    scaler = torch.amp.GradScaler(device.type, enabled=config.precision == "fp16")
    if state.scaler:
        scaler.load_state_dict(state.scaler)
    averaged = model
    if config.ema:
        averaged = checkpoint.restore_model(state)
        averaged.to(device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    classify = torch_classifier(averaged, mean, config.std)
    network = ranks.wrap(cast(nn.Module, torch.compile(model)) if config.compile else model)

    def save(step: int, best: bool = False) -> None:
        state.step = step
        state.model = averaged.state_dict()
        state.raw = model.state_dict() if config.ema else None
        state.optimizer, state.scaler = optimizer.state_dict(), scaler.state_dict()
        if ranks.first:
            checkpoint.save_step(state, out, keep, best)

    stopping = _catch_signals()
    if ranks.first:
        count = sum(p.numel() for p in model.parameters())
        print(f"{count:,} parameters, {steps} steps an epoch, {ranks.world} x {device}")
    for epoch in range(state.epoch, config.epochs):
        started, seconds_before = time.monotonic(), state.epoch_seconds
        bar = tqdm(
            desc=f"epoch {epoch + 1}/{config.epochs}",
            total=steps * batch_size,
            initial=(state.step - epoch * steps) * batch_size,
            unit="img",
            leave=False,
            disable=None if ranks.first else True,  # None: no bar where the output is no terminal
        )
        todo = range(state.step, (epoch + 1) * steps)
        batches = load_ahead(dataset.train, config, batch_size, todo, ranks, workers or cores())
        for step in todo:
            lr = learning_rate(config, state.schedule, step, steps)
            for group in optimizer.param_groups:
                group["lr"] = lr
            optimizer.zero_grad()
            loss = 0.0
            for turn in range(config.accumulate):
                batch = next(batches)
                state.epoch_waited += batch.waited
                pixels, targets = augmented(batch, config, len(classes), colours)
                torch.manual_seed(seed_of(config.seed, DROPOUT, step * batch_size + batch.rows.start))
                with ranks.without_exchange(network, turn + 1 < config.accumulate):
                    with torch.autocast(
                        device.type, AUTOCAST.get(config.precision), config.precision in AUTOCAST
                    ):
                        logits = network(normalise(pixels, mean, config.std))
                    part = F.cross_entropy(logits.float(), targets) / config.accumulate
                    scaler.scale(part).backward()  # type: ignore[no-untyped-call]
                loss += part.item()
            if config.clip_norm:
                scaler.unscale_(optimizer)
                nn.utils.clip_grad_norm_(model.parameters(), config.clip_norm)
            scaler.step(optimizer)
            scaler.update()
            if config.ema:
                update_average(averaged, model, config.ema, step)
            # The loss is the mean over all processes; a signal to one of them stops all after this step.
            total, stop = ranks.total(torch.tensor([loss, float(stopping())], dtype=torch.float64)).tolist()
            state.epoch_loss += total / ranks.world
            bar.update(batch_size)
            bar.set_postfix(loss=f"{state.epoch_loss / (step + 1 - epoch * steps):.3f}", lr=f"{lr:.2g}")
            if stop:
                bar.close()
                state.epoch_seconds = seconds_before + time.monotonic() - started
                save(step + 1)
                raise Interrupted(f"stopped after step {step + 1}, saved; go on with --resume")
        bar.close()
        trained = seconds_before + time.monotonic() - started

        result = ranks.merge(evaluate(classify, ranks.part(dataset.val), len(classes), config.recipe))
        metrics = {"images": result.images, "top1": result.top1, "top5": result.top5}
        update_plateau(state.schedule, result.top1)
        better = result.top1 > state.best.get("top1", -1.0)
        if better:
            state.best = {"epoch": epoch + 1, **metrics}
        seconds = seconds_before + time.monotonic() - started
        rate, waited = steps * batch_size / trained, state.epoch_waited / trained
        state.epoch, state.metrics = epoch + 1, metrics
        state.provenance["seconds"] += seconds
        train_loss = state.epoch_loss / steps
        state.epoch_loss = state.epoch_seconds = state.epoch_waited = 0.0
        save((epoch + 1) * steps, better)
        if ranks.first:
            _log(out / "metrics.csv", epoch + 1, train_loss, result.top1, result.top5, rate, waited)
            print(
                f"epoch {epoch + 1}/{config.epochs}  loss {train_loss:.3f}  top-1 {result.top1:.1%}  "
                f"top-5 {result.top5:.1%}  {rate:.0f} img/s, {waited:.0%} of the time waiting for data  "
                f"{seconds * (config.epochs - epoch - 1) / 60:.0f} min left",
                flush=True,
            )
    if ranks.first:
        best = state.best
        print(f"best: top-1 {best['top1']:.1%} after epoch {best['epoch']}, in {out / 'best.pt'}")


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


def _same_run(state: Checkpoint, config: Config, dataset: Dataset, out: Path) -> None:
    """Raises CheckpointError if the checkpoint in `out` is not of this run."""
    if (state.config, state.classes) != (config, dataset.classes):
        raise CheckpointError(f"{out} has other settings or classes; see {out}/config.toml")
    if state.provenance["images"] != len(dataset.train):
        raise CheckpointError(
            f"{out} was trained on {state.provenance['images']} images, not {len(dataset.train)}; "
            "start another run from it with --weights"
        )


def _take_weights(model: AlexNet, config: Config, source: Checkpoint) -> str:
    """Copies every tensor whose name and shape fit, in place; -> the layers that start afresh.

    Raises CheckpointError where the weights would compute something else here: they fit the pixels and
    the layers without weights that they were trained with.
    """
    for key in ("arch", "activation", "lrn", "pooling", "std"):
        theirs, wanted = getattr(source.config, key), getattr(config, key)
        if theirs != wanted:
            hint = "--weight-init" if key == "std" else f"--{key}"
            raise CheckpointError(
                f"--weights has {key} {theirs}, this run {wanted}; give it the same {hint}"
            )
    ours = model.state_dict()
    fitting = {k: v for k, v in source.model.items() if k in ours and ours[k].shape == v.shape}
    if not fitting:
        raise CheckpointError("no layer of --weights fits; was it trained with another width?")
    model.load_state_dict(ours | fitting)
    return ", ".join(sorted({name.split(".")[0] for name in ours.keys() - fitting.keys()})) or "nothing"


def _catch_signals() -> Callable[[], bool]:
    """-> a function that says whether Ctrl-C or SIGTERM has come; a second one ends the program."""
    caught: list[int] = []

    def handle(number: int, _frame: FrameType | None) -> None:
        caught.append(number)
        signal.signal(number, signal.SIG_DFL)

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, handle)
    return lambda: bool(caught)


def _log(path: Path, epoch: int, loss: float, top1: float, top5: float, rate: float, waited: float) -> None:
    new = not path.exists()
    with path.open("a", newline="") as file:
        writer = csv.writer(file)
        if new:
            writer.writerow(["epoch", "loss", "top1", "top5", "images_per_second", "data_wait"])
        writer.writerow(
            [epoch, f"{loss:.4f}", f"{top1:.4f}", f"{top5:.4f}", f"{rate:.1f}", f"{waited:.4f}"]
        )
