"""Choose the settings of a run from its photographs and the machine, and explain the choice.

Settings from the command line stay. The number of epochs depends only on the photographs, so that a
command means the same run on every machine; `fit_epochs` fits it into a time.
"""

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from statistics import fmean
from typing import Any, Final

import torch
import torch.nn.functional as F

from contract.limits import usable_cores
from training.batches import load_ahead
from training.config import Config, configure, recipe_values
from training.data.images import Split
from training.data.prepared import Dataset
from training.distributed import Ranks
from training.evaluate import evaluate
from training.model import AlexNet
from training.run.checkpoint import Checkpoint
from training.run.progress import duration
from training.start.weights import SHAPE, base_widths
from training.train import Trainer

MEASURED_STEPS: Final = 3  # the first one, which allocates and compiles, is not counted
MEASURED_PHOTOGRAPHS: Final = 50  # validation photographs that are timed
# Per parameter: weight, gradient, AdamW's two moments, average, and a copy while saving.
STATE_BYTES: Final = 24
ACTIVATION_BYTES: Final = 11e6  # per photograph in a step at width 1; 9.6 to 10.5 MB measured on a CPU
RESERVE: Final = 0.95  # of the remaining time: steps on a busy machine vary, and checkpoints take time


@dataclass(frozen=True)
class Scale:
    """Settings for sets of at most `photographs`, for runs that start from the base network."""

    photographs: float
    epochs: int
    batch_size: int
    ema: float


SCALES: Final = (
    Scale(400, epochs=60, batch_size=32, ema=0.99),
    Scale(1_200, epochs=150, batch_size=64, ema=0.995),
    Scale(4_000, epochs=60, batch_size=64, ema=0.995),
    Scale(40_000, epochs=30, batch_size=128, ema=0.998),
    Scale(200_000, epochs=15, batch_size=128, ema=0.999),
)

# The base network was trained on pictures of 64 pixels. Where the photographs show no finer detail, its
# convolutions need little change and learn at a tenth of the rate. This helps CIFAR-10 with 60 pictures per
# class (57 % instead of 53 %) and costs accuracy on flowers17.
BASE_PIXELS: Final = 64
BLURRED: Final = (
    0.02  # share of the variance finer than that: Tiny ImageNet 0.013, CIFAR-10 0.002, flowers17 0.05
)
CONV_LR: Final = 0.1
_SAMPLED_PICTURES: Final = 200  # to measure it


@dataclass(frozen=True)
class Plan:
    """The chosen settings; `start` is a value of --from, `reason` says why the run starts there."""

    config: Config
    start: str
    reason: str


@dataclass(frozen=True)
class Pace:
    """Measured seconds of one step, and of validating one photograph."""

    step: float
    validation: float

    def epoch(self, steps: int, validated: int) -> float:
        """Estimate the seconds of an epoch."""
        return steps * self.step + validated * self.validation


def choose(
    overrides: Mapping[str, Any], start: str | None, photographs: Split, *, ranks: Ranks, free_bytes: float
) -> Plan:
    """Choose every setting that is not in `overrides`, and the start unless `start` names one.

    `photographs` are the training photographs, `free_bytes` is the free memory of the device. Raises
    ConfigError.
    """
    widths, requested, count = base_widths(), configure({}, overrides), len(photographs)
    changed = [key for key in SHAPE if key != "width" and getattr(requested, key) != getattr(Config(), key)]
    scale = next((scale for scale in SCALES if count <= scale.photographs), None)
    reason = "as --from says"
    if start is None:
        start = "scratch"
        if changed:
            value = getattr(requested, changed[0])
            reason = f"from scratch, as there is no base network of {changed[0]} {value}"
        elif "width" in overrides and requested.width not in widths:
            reason = f"from scratch, as there is no base network of width {requested.width}"
        elif scale is None:
            reason = f"from scratch, as {count:,} photographs are enough for it"
        else:
            start = "base"
            from_scratch = f"--from scratch would take {recipe_values('modern')['epochs']} epochs"
            reason = f"from the base network, as {count:,} photographs are few; {from_scratch}"
    chosen = recipe_values("modern" if start == "scratch" else "finetune")
    if start != "scratch" and scale is not None:
        chosen |= {"epochs": scale.epochs, "batch_size": scale.batch_size, "ema": scale.ema}
    if start == "base":
        # Full width needs a GPU; a CPU gets the narrowest base network.
        chosen["width"] = max(widths) if ranks.device.type == "cuda" else min(widths)
        if "conv_lr" not in overrides and fine_detail(photographs) < BLURRED:
            chosen["conv_lr"] = CONV_LR
            reason += f"; the photographs show no more than {BASE_PIXELS} pixels would: --conv-lr {CONV_LR}"
    config = configure(chosen, overrides)
    if "precision" not in overrides and ranks.device.type == "cpu" and not computes_bf16():
        config = replace(config, precision="fp32")
    if "warmup_epochs" not in overrides:
        config = replace(config, warmup_epochs=min(config.warmup_epochs, config.epochs / 4))
    if "batch_size" not in overrides:
        config = replace(config, batch_size=_fitting_batch(config, ranks, free_bytes))
    return Plan(config, start, reason)


def computes_bf16(capabilities: Mapping[str, Any] | None = None) -> bool:
    """Tell whether the CPU, or one of these capabilities of torch.cpu, has instructions for bfloat16.

    Without them, torch emulates it: an epoch of flowers17 took more than ten minutes instead of one.
    """
    capabilities = torch.cpu.get_capabilities() if capabilities is None else capabilities
    return any(present for name, present in capabilities.items() if "bf16" in name)


def fine_detail(photographs: Split) -> float:
    """Estimate the mean share of a picture's variance that is lost at `BASE_PIXELS` pixels."""
    step = max(1, len(photographs) // _SAMPLED_PICTURES)
    squares = photographs.squares(torch.arange(0, len(photographs), step)[:_SAMPLED_PICTURES])
    pixels = squares.permute(0, 3, 1, 2).float()
    coarse = F.interpolate(pixels, (BASE_PIXELS,) * 2, mode="area")
    lost = (pixels - F.interpolate(coarse, pixels.shape[2:], mode="bilinear")).square().mean((1, 2, 3))
    return float((lost / pixels.var((1, 2, 3)).clamp(min=1)).mean())


def _fitting_batch(config: Config, ranks: Ranks, free_bytes: float) -> int:
    """Halve the batch size until its activations fit into memory, and round up to whole pieces."""
    with torch.device("meta"):
        model = AlexNet(1000, config.width, image_size=config.image_size, variant=config.variant)
    parameters = sum(values.numel() for values in model.parameters())
    pieces = ranks.world * config.accumulate
    room = (free_bytes - STATE_BYTES * parameters) / (ACTIVATION_BYTES * config.width) * pieces
    size = config.batch_size
    while size > max(room, 8):
        size //= 2
    return max(1, math.ceil(size / pieces)) * pieces


def measure(state: Checkpoint, dataset: Dataset, *, batch_size: int, ranks: Ranks, workers: int) -> Pace:
    """Time training steps and a validation on a copy of the network; `state` does not change."""
    trainer, seconds = Trainer(state, torch.zeros(3, 3), ranks), []
    batches = load_ahead(
        dataset,
        state.config,
        batch_size=batch_size,
        steps=range(MEASURED_STEPS),
        ranks=ranks,
        workers=workers,
    )
    for step in range(MEASURED_STEPS):
        started = time.monotonic()
        losses, _waited = trainer.step(batches, step, 0.0)
        losses.cpu()  # waits for the GPU
        seconds.append(time.monotonic() - started)
    sample = dataset.val.part(slice(MEASURED_PHOTOGRAPHS))
    started = time.monotonic()
    evaluate(trainer.classify, sample, state.recipe)
    validation = (time.monotonic() - started) / len(sample) / ranks.world
    return Pace(*ranks.from_main(torch.tensor([fmean(seconds[1:]), validation])).tolist())


def fit_epochs(config: Config, seconds: float, epoch_seconds: float) -> Config:
    """Set as many epochs as fit into `seconds`, at least one, with at most a quarter of them warm-up."""
    epochs = max(1, int(RESERVE * seconds / epoch_seconds))
    return replace(config, epochs=epochs, warmup_epochs=min(config.warmup_epochs, epochs / 4))


def describe(
    state: Checkpoint,
    reason: str,
    *,
    photographs: int,
    epoch_seconds: float,
    limit: float | None,
    ranks: Ranks,
) -> str:
    """Describe the run in five lines: the choices, the reasons, and what more would cost."""
    config, parameters = state.config, sum(values.numel() for values in state.model.values())
    memory = ACTIVATION_BYTES * config.width * config.batch_size / 1e9
    larger = f"; --width 1 takes about {1 / config.width**2:.0f} times as long" if config.width < 1 else ""
    because = f"which fit into {duration(limit)}" if limit else f"for {photographs:,} photographs"
    fitting = "" if limit else "; --time 10m would fit the epochs to 10 minutes"
    total = duration(config.epochs * epoch_seconds)
    device = f"{ranks.world} GPU" if ranks.device.type == "cuda" else f"the CPU, {usable_cores()} cores"
    return "\n".join(
        [
            f"start    {reason}",
            f"network  width {config.width:g}, {parameters:,} parameters{larger}",
            f"images   {config.image_size} pixels, {config.batch_size} a step; "
            f"twice as many take {memory:.1f} GB more (--batch-size)",
            f"epochs   {config.epochs}, {because}; each more takes {duration(epoch_seconds)} (--epochs)",
            f"time     about {total} on {device}, as measured now{fitting}",
        ]
    )
