"""Compute the learning rate of a step: cosine with warm-up, or lowered on a validation plateau."""

import math
from typing import Any, Final

from training.config import Config

PLATEAU_EPOCHS: Final = 5  # epochs without a better top-1 after which the plateau schedule lowers the rate
DROPS: Final = 3  # how often it divides the rate by 10 (section 5)


def learning_rate(config: Config, schedule: dict[str, Any], step: int, steps_per_epoch: int) -> float:
    """Return the learning rate of `step`, which counts from 0 over all epochs.

    `schedule` is the state that `update_plateau` keeps; the cosine schedule does not use it.
    """
    if config.schedule == "plateau":
        return float(config.lr * 0.1 ** int(schedule.get("drops", 0)))
    total, warmup = config.epochs * steps_per_epoch, config.warmup_epochs * steps_per_epoch
    ramp: float = min(1.0, (step + 1) / warmup) if warmup else 1.0
    decay = (1 + math.cos(math.pi * step / total)) / 2
    return float(config.lr * ramp * decay)


def update_plateau(schedule: dict[str, Any], top1: float) -> None:
    """Update the plateau state in place after an epoch whose validation reached `top1` (0 to 1).

    `schedule` has the best "top1" so far, "waited", the epochs since then or since the last drop, and
    "drops", how often the rate was divided by 10. It is saved in checkpoints.
    """
    if top1 > schedule.get("top1", -1.0):
        schedule.update(top1=top1, waited=0)
        return
    schedule["waited"] = schedule.get("waited", 0) + 1
    if schedule["waited"] >= PLATEAU_EPOCHS and schedule.get("drops", 0) < DROPS:
        schedule.update(drops=schedule.get("drops", 0) + 1, waited=0)
