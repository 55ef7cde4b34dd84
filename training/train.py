"""The training loop, read from top to bottom: data, model, optimiser, epochs, checkpoints."""

import csv
import signal
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from types import FrameType

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm import tqdm

from training import augment, checkpoint
from training.checkpoint import Checkpoint, CheckpointError
from training.config import Config
from training.data import Split
from training.evaluate import evaluate, normalise, torch_classifier
from training.model import AlexNet
from training.optim import (
    AUGMENTATION,
    DROPOUT,
    ORDER,
    generator_of,
    learning_rate,
    make_optimizer,
    seed_of,
    update_average,
    update_plateau,
)
from training.prepared import load_dataset
from training.provenance import run_provenance


class Interrupted(Exception):
    """Ctrl-C or SIGTERM; a checkpoint has been written."""


def train(
    config: Config,
    data: Path,
    out: Path,
    device: torch.device,
    weights: Path | None = None,
    resume: bool = False,
    workers: int | None = None,
) -> None:
    """Trains into the run folder `out`: last.pt, best.pt, config.toml and metrics.csv.

    `weights`, a run folder or checkpoint, gives the first values of every layer whose shape fits. A
    run that was stopped anywhere and resumed on the same machine ends with the same weights, bit for
    bit. Raises DataError, CheckpointError, or Interrupted.
    """
    if out.is_dir() and any(out.iterdir()) and not resume:
        raise CheckpointError(f"{out} is not empty; add --resume, or choose another folder")
    dataset = load_dataset(data, config, workers)
    classes, train_split, val_split = dataset.classes, dataset.train, dataset.val
    skipped = train_split.skipped + val_split.skipped
    print(*(f"skipped {problem}" for problem in skipped), sep="\n", end="\n" if skipped else "")
    print(
        f"{len(train_split)} images to train on, {len(val_split)} to validate on, "
        f"{len(classes)} classes, {len(skipped)} skipped"
    )
    mean = dataset.mean
    # Without variance there is no shift, and every other draw stays.
    covariance = dataset.covariance if config.pca else torch.zeros(3, 3).double()
    colours = augment.colour_components(covariance).to(device)
    batch_size = min(config.batch_size, len(train_split))
    steps = len(train_split) // batch_size

    torch.manual_seed(config.seed)
    model = AlexNet(len(classes), config.width, config.weight_init, config.image_size, config.variant)
    state = Checkpoint(config, classes, mean.tolist(), model.state_dict())
    state.provenance = run_provenance(dataset)
    if resume and (out / "last.pt").is_file():
        state = checkpoint.load(out / "last.pt")
        if (state.config, state.classes) != (config, classes):
            raise CheckpointError(f"{out} has other settings or classes; see {out}/config.toml")
        if state.provenance["images"] != len(train_split):
            raise CheckpointError(
                f"{out} was trained on {state.provenance['images']} images, not {len(train_split)}; "
                "start another run from it with --weights"
            )
    elif weights is not None:
        source = checkpoint.load(checkpoint.find(weights))
        print(f"starts from {weights}; afresh: {_take_weights(model, config, source)}")
        state.model = model.state_dict()
        state.provenance["started_from"] = {"config": asdict(source.config), **source.provenance}
    out.mkdir(parents=True, exist_ok=True)
    (out / "config.toml").write_text(config.to_toml())

    model.load_state_dict(state.raw if state.raw is not None else state.model)
    model.to(device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimizer = make_optimizer(model, config)
    if state.optimizer:
        optimizer.load_state_dict(state.optimizer)
    averaged = model
    if config.ema:
        averaged = checkpoint.restore_model(state)
        averaged.to(device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    classify = torch_classifier(averaged, mean, config.std)

    def save(step: int, *names: str) -> None:
        state.step = step
        state.model = averaged.state_dict()
        state.raw = model.state_dict() if config.ema else None
        state.optimizer = optimizer.state_dict()
        for name in names:
            checkpoint.save(state, out / name)

    stopping = _catch_signals()
    print(f"{sum(p.numel() for p in model.parameters()):,} parameters, {steps} steps an epoch, {device}")
    for epoch in range(state.epoch, config.epochs):
        order = torch.randperm(len(train_split), generator=generator_of(config.seed, ORDER, epoch))
        done, started = state.step - epoch * steps, time.monotonic()
        bar = tqdm(
            desc=f"epoch {epoch + 1}/{config.epochs}",
            total=steps * batch_size,
            initial=done * batch_size,
            unit="img",
            leave=False,
            disable=None,  # no bar where the output is no terminal
        )
        for step in range(epoch * steps + done, (epoch + 1) * steps):
            index = step - epoch * steps
            batch = order[index * batch_size : (index + 1) * batch_size]
            lr = learning_rate(config, state.schedule, step, steps)
            for group in optimizer.param_groups:
                group["lr"] = lr
            pixels, targets = _batch(train_split, batch, config, len(classes), colours, step)
            torch.manual_seed(seed_of(config.seed, DROPOUT, step))
            with torch.autocast(device.type, torch.bfloat16, enabled=config.precision == "bf16"):
                logits = model(normalise(pixels, mean, config.std))
            loss = F.cross_entropy(logits.float(), targets)
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            if config.clip_norm:
                nn.utils.clip_grad_norm_(model.parameters(), config.clip_norm)
            optimizer.step()
            if config.ema:
                update_average(averaged, model, config.ema, step)
            state.epoch_loss += loss.item()
            bar.update(len(batch))
            bar.set_postfix(loss=f"{state.epoch_loss / (index + 1):.3f}", lr=f"{lr:.2g}")
            if stopping():
                bar.close()
                state.epoch_seconds += time.monotonic() - started
                save(step + 1, "last.pt")
                raise Interrupted(f"stopped after step {step + 1}, saved; go on with --resume")
        bar.close()
        rate = steps * batch_size / (state.epoch_seconds + time.monotonic() - started)

        result = evaluate(classify, val_split, len(classes), config.recipe)
        metrics = {"images": result.images, "top1": result.top1, "top5": result.top5}
        update_plateau(state.schedule, result.top1)
        better = result.top1 > state.best.get("top1", -1.0)
        if better:
            state.best = {"epoch": epoch + 1, **metrics}
        seconds = state.epoch_seconds + time.monotonic() - started
        state.epoch, state.metrics = epoch + 1, metrics
        state.provenance["seconds"] += seconds
        train_loss = state.epoch_loss / steps
        state.epoch_loss = state.epoch_seconds = 0.0
        save((epoch + 1) * steps, "last.pt", *(["best.pt"] if better else []))
        _log(out / "metrics.csv", epoch + 1, train_loss, result.top1, result.top5, rate)
        print(
            f"epoch {epoch + 1}/{config.epochs}  loss {train_loss:.3f}  top-1 {result.top1:.1%}  "
            f"top-5 {result.top5:.1%}  {rate:.0f} img/s  "
            f"{seconds * (config.epochs - epoch - 1) / 60:.0f} min left",
            flush=True,
        )
    best = state.best
    print(f"best: top-1 {best['top1']:.1%} after epoch {best['epoch']}, in {out / 'best.pt'}")


def _batch(
    split: Split, batch: Tensor, config: Config, classes: int, colours: Tensor, step: int
) -> tuple[Tensor, Tensor]:
    """The images at the indices `batch`, augmented: pixels (N, 3, H, W) and targets (N, classes),
    float32, where `colours` is: colour and crop run there.
    """
    generator = generator_of(config.seed, AUGMENTATION, step)
    draws = augment.Draws(generator, len(batch), slice(None))
    squares = split.squares[batch].to(colours.device)
    labels = split.labels[batch].to(colours.device)
    if config.augment == "paper":
        pixels = augment.paper(squares, config.image_size, colours, draws)
    else:
        pixels = augment.strong(squares, config.image_size, draws)
    targets = F.one_hot(labels, classes).float()
    targets = targets * (1 - config.label_smoothing) + config.label_smoothing / classes
    if float(torch.rand((), generator=generator)) < config.mix:
        pixels, targets = augment.mix(pixels, targets, generator)
    return pixels, targets


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


def _log(path: Path, epoch: int, loss: float, top1: float, top5: float, rate: float) -> None:
    new = not path.exists()
    with path.open("a", newline="") as file:
        writer = csv.writer(file)
        if new:
            writer.writerow(["epoch", "loss", "top1", "top5", "images_per_second"])
        writer.writerow([epoch, f"{loss:.4f}", f"{top1:.4f}", f"{top5:.4f}", f"{rate:.1f}"])
