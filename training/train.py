"""The training loop, read from top to bottom: data, network, epochs, steps, checkpoints."""

import time
from math import ceil, isfinite
from pathlib import Path

import torch

from contract.recipe import Recipe
from training.batches import batch_size_of, load_ahead
from training.data import augment
from training.data.images import Split
from training.data.prepared import Dataset
from training.distributed import Ranks
from training.errors import CheckpointError
from training.evaluate import BATCH, Classify, Evaluation, judge, probabilities_of
from training.learner import Learner
from training.optim import learning_rate, update_plateau
from training.run import checkpoint
from training.run.checkpoint import Checkpoint
from training.run.divergence import LossWatch
from training.run.log import EpochRow, Log
from training.run.progress import Progress
from training.run.saver import Saver
from training.run.signals import Interrupted, Signals


def train(
    state: Checkpoint,
    dataset: Dataset,
    out: Path,
    ranks: Ranks,
    signals: Signals,
    *,
    workers: int,
    keep: int,
) -> None:
    """Trains `state`, new or stopped, to its last epoch in the folder `out`, which the caller has locked.

    Writes config.toml, metrics.csv, tensorboard/, last.pt, best.pt, and of step-N.pt the newest `keep`.
    Both checkpoints are always of finite weights. A run that was stopped anywhere and resumed on the same
    machine ends with the same weights, bit for bit. Raises DataError, CheckpointError, Diverged, or
    Interrupted.
    """
    config, classes = state.config, dataset.classes
    say = print if ranks.first else _nothing
    # Without variance there is no shift, and every other draw stays.
    covariance = dataset.covariance if config.pca else torch.zeros(3, 3).double()
    batch_size = batch_size_of(config, len(dataset.train), ranks)
    steps = len(dataset.train) // batch_size
    learner = Learner(state, augment.colour_components(covariance), ranks)
    if not learner.finite():
        raise CheckpointError(f"{out / 'last.pt'} holds NaN or infinity: it diverged; take an earlier one")
    classify = learner.classifier()
    ranks.wait()  # until all have looked at `out`
    if ranks.first:
        if not state.step:
            checkpoint.save(state, out / "last.pt")  # from here on there is a run to go on with
        (out / "config.toml").write_text(config.to_toml())

    saver = Saver(out, keep)
    watch = LossWatch(config, len(classes), steps)

    def save(best: bool = False) -> None:
        if ranks.any(not learner.finite()):
            raise watch.diverged(state.step, "the weights are no numbers any more")
        learner.store(state)
        if ranks.first:
            saver.save(state, best)

    signals.defer()
    parameters = sum(p.numel() for p in learner.model.parameters())
    say(f"{parameters:,} parameters, {steps} steps an epoch, {ranks.world} x {ranks.device}", flush=True)
    progress = Progress(config.epochs, steps, batch_size, speaks=ranks.first)
    with Log(out if ranks.first else None, state.epoch, state.step) as log, progress:
        for epoch in range(state.epoch, config.epochs):
            started, seconds_before = time.monotonic(), state.epoch_seconds
            first, last = epoch * steps, (epoch + 1) * steps
            state.metrics = {}  # until this epoch is validated
            progress.begin_epoch(epoch, state.step - first)
            todo = range(state.step, last)
            batches = load_ahead(dataset.train, config, batch_size, todo, ranks, workers)
            for step in todo:
                lr = learning_rate(config, state.schedule, step, steps)
                loss, waited = learner.step(batches, step, lr)
                # The mean loss of all processes; a signal to one of them stops all after this step, and the
                # first one's clock says when to save.
                loss, stop, due = ranks.total(
                    torch.tensor([loss, signals.stopping, ranks.first and saver.due()], dtype=torch.float64)
                ).tolist()
                loss /= ranks.world
                state.step = step + 1
                state.epoch_loss += loss
                state.epoch_waited += waited
                state.epoch_seconds = seconds_before + time.monotonic() - started
                log.step(state.step, loss, lr)
                progress.end_step(state.epoch_loss / (state.step - first), lr)
                watch.look(state.step, loss, learner.scaler.get_scale())
                if stop or due:
                    save()
                if stop:
                    raise Interrupted(f"stopped after step {state.step}, saved; go on with --resume")
            if ranks.any(ranks.first and saver.due_before_validation()):
                save()

            result = _validate(classify, dataset.val, config.recipe, ranks, signals, progress)
            if result is None:
                save()
                raise Interrupted(
                    f"stopped in the validation after step {state.step}, saved; go on with --resume"
                )
            if not isfinite(result.loss):
                raise watch.diverged(last, "the network's answers are no numbers any more")
            trained, seconds = state.epoch_seconds, seconds_before + time.monotonic() - started
            row = EpochRow(
                epoch=epoch + 1,
                loss=state.epoch_loss / steps,
                top1=result.top1,
                top5=result.top5,
                lr=learning_rate(config, state.schedule, last - 1, steps),
                images_per_second=steps * batch_size / trained,
                data_wait=state.epoch_waited / trained,
                val_loss=result.loss,
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
            if better or state.epoch == config.epochs or ranks.any(ranks.first and saver.due()):
                save(better)
            progress.end_epoch(row)
            if hint := watch.hint(row.epoch, row.loss):
                say(hint, flush=True)
    best = state.best
    say(f"best: top-1 {best['top1']:.1%} after epoch {best['epoch']}, in {out / 'best.pt'}")


def _validate(
    classify: Classify, split: Split, recipe: Recipe, ranks: Ranks, signals: Signals, progress: Progress
) -> Evaluation | None:
    """Measure all of `split`, each process its part; None if one of them was told to stop meanwhile.

    They ask each other before each batch, and equally often, though one may have a batch less.
    """
    batches = ceil(ceil(len(split) / ranks.world) / BATCH)
    asked = 0

    def ask() -> None:
        nonlocal asked
        progress.validating(asked / batches)
        asked += 1
        if ranks.any(signals.stopping):
            raise Interrupted

    def classify_unless_stopped(crops: torch.Tensor) -> torch.Tensor:
        ask()
        return classify(crops)

    try:
        part = ranks.part(split)
        result = judge(probabilities_of(classify_unless_stopped, part, recipe), part.labels)
        while asked < batches:
            ask()
    except Interrupted:
        return None
    return ranks.merge(result)


def _nothing(*_words: object, **_how: object) -> None:
    """What the processes other than the first say."""
