"""Train the network: the loop over epochs and steps, with validation, logging and checkpoints."""

import time
from collections.abc import Iterator
from math import ceil, isfinite
from pathlib import Path
from typing import Final, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from contract.recipe import Recipe
from training.batches import Batch, augmented, batch_size_of, load_ahead
from training.data import augment
from training.data.images import Split
from training.data.prepared import Dataset
from training.distributed import Ranks
from training.errors import CheckpointError
from training.evaluate import (
    BATCH,
    Evaluation,
    normalise,
    probabilities_of,
    score,
    torch_classifier,
)
from training.optim import make_optimizer, restore_optimizer, set_rate, update_average
from training.run import checkpoint
from training.run.checkpoint import Checkpoint
from training.run.divergence import LossWatch
from training.run.log import EpochRow, Log
from training.run.progress import Progress
from training.run.saver import Saver
from training.run.signals import Interrupted, Signals
from training.schedule import learning_rate, update_plateau
from training.seeding import DROPOUT, seed_of

AUTOCAST: Final = {"bf16": torch.bfloat16, "fp16": torch.float16}
# Steps between two readings of the losses. A GPU is given steps ahead of the one that it computes; reading
# waits for all of them. Several processes also learn of a signal and of a due checkpoint only then.
STEPS_PER_READING: Final = {"cpu": 1, "cuda": 10}


def train(
    state: Checkpoint,
    dataset: Dataset,
    out: Path,
    *,
    ranks: Ranks,
    signals: Signals,
    workers: int,
    keep: int,
) -> None:
    """Train `state`, a new run or a resumed one, to its last epoch in the run folder `out`.

    The caller holds the lock of `out`. Writes config.toml, metrics.csv, tensorboard/, last.pt, best.pt and
    the newest `keep` of step-N.pt. last.pt and best.pt always have finite weights. A run that is stopped
    anywhere and resumed on the same machine ends with the same weights, bit for bit.
    Raises DataError, CheckpointError, Diverged, or Interrupted.
    """
    config, classes = state.config, dataset.classes
    say = print if ranks.is_main else _print_nothing
    batch_size = batch_size_of(config, len(dataset.train), ranks)
    steps = len(dataset.train) // batch_size
    # Zero covariance: no colour shift, while all other random draws stay the same.
    covariance = dataset.covariance if config.pca else torch.zeros(3, 3).double()
    trainer = Trainer(state, augment.colour_components(covariance), ranks)
    if not trainer.is_finite():
        raise CheckpointError(f"{out / 'last.pt'} holds NaN or infinity: it diverged; take an earlier one")
    ranks.barrier()  # every process has read `out` before the first one writes to it
    if ranks.is_main:
        if not state.step:
            checkpoint.save(state, out / "last.pt")  # from here on there is a run to resume
        (out / "config.toml").write_text(config.to_toml())
    saver = Saver(out, keep)
    watch = LossWatch(config, len(classes), steps)

    def save(best: bool = False) -> None:
        if ranks.any_rank(not trainer.is_finite()):
            raise watch.diverged(state.step, "the weights hold NaN or infinity")
        trainer.store(state)
        if ranks.is_main:
            saver.save(state, best)

    signals.defer()
    parameters = sum(p.numel() for p in trainer.model.parameters())
    say(f"{parameters:,} parameters, {steps} steps an epoch, {ranks.world} x {ranks.device}", flush=True)
    progress = Progress(config.epochs, steps, batch_size, speaks=ranks.is_main)
    steps_per_reading = STEPS_PER_READING.get(ranks.device.type, 1)
    with Log(out if ranks.is_main else None, state.epoch, state.step) as log, progress:
        for epoch in range(state.epoch, config.epochs):
            started, seconds_before = time.monotonic(), state.epoch_seconds
            first, last = epoch * steps, (epoch + 1) * steps
            state.metrics = {}  # until this epoch is validated
            progress.begin_epoch(epoch, state.step - first)
            todo = range(state.step, last)
            batches = load_ahead(
                dataset, config, batch_size=batch_size, steps=todo, ranks=ranks, workers=workers
            )
            unread: list[tuple[int, float, Tensor]] = []
            for step in todo:
                lr = learning_rate(config, state.schedule, step, steps)
                pieces, waited = trainer.step(batches, step, lr)
                state.step = step + 1
                state.epoch_waited += waited
                unread.append((state.step, lr, pieces))
                stops_alone = signals.stopping and ranks.world == 1
                if state.step % steps_per_reading and state.step < last and not stops_alone:
                    continue

                # Average the losses over all processes. A signal to one of them stops all of them after
                # this step, and the clock of the main process says when to save.
                save_due = ranks.is_main and saver.due()
                losses = torch.stack([pieces for *_, pieces in unread]).cpu().double().sum(1)
                flags = torch.tensor([signals.stopping, save_due])
                *totals, stop, due = ranks.all_reduce(torch.cat([losses, flags])).tolist()
                state.epoch_seconds = seconds_before + time.monotonic() - started
                for (number, rate, _pieces), total in zip(unread, totals, strict=True):
                    loss = total / ranks.world
                    state.epoch_loss += loss
                    log.step(number, loss, rate)
                    watch.check(number, loss, trainer.scaler.get_scale())
                progress.end_steps(len(unread), state.epoch_loss / (state.step - first), lr)
                unread.clear()
                if stop or due:
                    save()
                if stop:
                    raise Interrupted(f"stopped after step {state.step}, saved; go on with --resume")
            if ranks.any_rank(ranks.is_main and saver.due_before_validation()):
                save()

            result = trainer.validate(dataset.val, config.recipe, signals, progress)
            if result is None:
                save()
                raise Interrupted(
                    f"stopped during validation after step {state.step}, saved; go on with --resume"
                )
            if not isfinite(result.loss):
                raise watch.diverged(last, "the network's outputs hold NaN or infinity")
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
            if better or state.epoch == config.epochs or ranks.any_rank(ranks.is_main and saver.due()):
                save(better)
            progress.end_epoch(row)
            if hint := watch.hint(row.epoch, row.loss):
                say(hint, flush=True)
    best = state.best
    say(f"best: top-1 {best['top1']:.1%} after epoch {best['epoch']}, in {out / 'best.pt'}")


class Trainer:
    """Hold the network, its running average and its optimiser, and run one step or one validation.

    Works in every precision and with any number of processes.
    """

    def __init__(self, state: Checkpoint, colours: Tensor, ranks: Ranks) -> None:
        """Restore the network and the optimiser from `state`.

        `colours` (3, 3) are the PCA components that `augment.paper` takes. Raises CheckpointError.
        """
        self.config, self.ranks = state.config, ranks
        self.mean, self.std, self.colours = state.mean, state.std, colours.to(ranks.device)
        self.classes = len(state.classes)
        self.averaged = checkpoint.restore_model(state)
        self.model = checkpoint.restore_model(state) if self.config.ema else self.averaged
        if state.raw is not None:
            self.model.load_state_dict(state.raw)
        for model in (self.model, self.averaged):
            model.to(ranks.device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.optimizer = make_optimizer(self.model, self.config)
        self.scaler = torch.amp.GradScaler(ranks.device.type, enabled=self.config.precision == "fp16")
        if state.optimizer:
            restore_optimizer(self.optimizer, state.optimizer)
        if state.scaler:
            self.scaler.load_state_dict(state.scaler)
        compiled = cast(nn.Module, torch.compile(self.model)) if self.config.compile else self.model
        self.network = ranks.wrap(compiled)
        self.classify = torch_classifier(self.averaged, self.mean, self.std)

    def step(self, batches: Iterator[Batch], number: int, lr: float) -> tuple[Tensor, float]:
        """Run optimiser step `number` on the next `config.accumulate` items of `batches`, at rate `lr`.

        -> this process's loss (accumulate,) on the device, a piece for each item, whose sum is the mean
        loss of its images; and the seconds that the device waited for data. A GPU may still be computing.
        """
        config, losses, waited = self.config, [], 0.0
        set_rate(self.optimizer, lr)
        self.optimizer.zero_grad()
        for turn in range(config.accumulate):
            batch = next(batches)
            if self._is_idle():
                waited += batch.waited
            pixels, targets = augmented(batch, config, self.classes, self.colours)
            torch.manual_seed(seed_of(config.seed, DROPOUT, number * batch.total + batch.rows.start))
            with self.ranks.without_exchange(self.network, turn + 1 < config.accumulate):
                loss = F.cross_entropy(self._forward(pixels), targets) / config.accumulate
                self.scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
            losses.append(loss.detach())
        if config.clip_norm:
            self.scaler.unscale_(self.optimizer)
            nn.utils.clip_grad_norm_(self.model.parameters(), config.clip_norm)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        if config.ema:
            update_average(self.averaged, self.model, config.ema, number)
        return torch.stack(losses), waited

    def _is_idle(self) -> bool:
        """Tell whether the device has computed everything that it was given."""
        device = self.ranks.device
        return device.type != "cuda" or torch.cuda.current_stream(device).query()

    def _forward(self, pixels: Tensor) -> Tensor:
        """Compute logits (N, classes) in float32 from pixels (N, 3, H, W), 0 to 255."""
        dtype = AUTOCAST.get(self.config.precision)
        with torch.autocast(self.ranks.device.type, dtype, enabled=dtype is not None):
            logits: Tensor = self.network(normalise(pixels, self.mean, self.std))
        return logits.float()

    def validate(
        self, split: Split, recipe: Recipe, signals: Signals, progress: Progress
    ) -> Evaluation | None:
        """Measure accuracy and loss on `split`, each process on its shard.

        -> None if a process received a stop signal meanwhile. The processes exchange that before every
        batch; each does so equally often, although one may have a batch less.
        """
        ranks = self.ranks
        batches = ceil(ceil(len(split) / ranks.world) / BATCH)
        checks = 0

        def require_no_stop() -> None:
            nonlocal checks
            progress.validating(checks / batches)
            checks += 1
            if ranks.any_rank(signals.stopping):
                raise Interrupted

        def classify(crops: Tensor) -> Tensor:
            require_no_stop()
            return self.classify(crops)

        try:
            shard = ranks.shard(split)
            result = score(probabilities_of(classify, shard, recipe), shard.labels)
            while checks < batches:
                require_no_stop()
        except Interrupted:
            return None
        return ranks.reduce(result)

    def is_finite(self) -> bool:
        """Check that every tensor that `store` would save is finite."""
        buffers = (v for state in self.optimizer.state.values() for v in state.values())
        tensors = [*self.model.parameters(), *self.averaged.parameters(), *buffers]
        return all(bool(t.isfinite().all()) for t in tensors if isinstance(t, Tensor))

    def store(self, state: Checkpoint) -> None:
        """Copy into `state` everything that a later `Trainer(state, ...)` needs to go on."""
        state.model = self.averaged.state_dict()
        state.raw = self.model.state_dict() if self.config.ema else None
        state.optimizer, state.scaler = self.optimizer.state_dict(), self.scaler.state_dict()


def _print_nothing(*_words: object, **_how: object) -> None:
    """Replace `print` in all processes but the main one."""
