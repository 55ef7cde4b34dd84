"""Which checkpoint of a run is exported, measured, reported on and trained on from.

The last one, because the schedule ends there. The best of E epochs on n photographs is mostly the luckiest
of E draws unless n is large, and promises more than other photographs show. So best.pt is taken only where

- the schedule was finished, and its epoch is in the last `END` of it, where the learning rate is small;
- it is better than the last by more than `ERRORS` standard errors of the difference of two accuracies,
  which is also the hysteresis: an epoch that is as good, or better by chance, changes nothing.

The standard error is that of Agresti and Caffo (2000): as if both had been right once more and wrong once
more, without which it would be 0 where all are right. It is that of two sets of photographs; on one set,
where both err on the same ones, the true one is smaller.
"""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from training.errors import CheckpointError
from training.run import checkpoint
from training.run.checkpoint import Checkpoint

END: Final = 0.2  # of the epochs
ERRORS: Final = 2.0


@dataclass(frozen=True)
class Choice:
    """A checkpoint and its path; `words` say which it is and why, in one line."""

    path: Path
    state: Checkpoint
    words: str


def choose(source: Path) -> Choice:
    """Load the checkpoint that a run folder stands for, or the file `source`.

    Raises CheckpointError, for weights that are no numbers too.
    """
    choice = _choose(source)
    if not all(values.isfinite().all() for values in choice.state.model.values()):
        raise CheckpointError(
            f"{choice.path} holds NaN or infinity: it diverged; take an earlier checkpoint"
        )
    return choice


def _choose(source: Path) -> Choice:
    if not source.is_dir():
        state = checkpoint.load(source)
        return Choice(source, state, f"{source.name}, {_epoch(state)}")
    last, best = source / "last.pt", source / "best.pt"
    if not last.is_file():
        if not best.is_file():
            raise CheckpointError(f"{source} holds neither best.pt nor last.pt; train first")
        state = checkpoint.load(best)
        return Choice(best, state, f"best.pt, {_epoch(state)}; there is no last.pt")
    state = checkpoint.load(last)
    taken, reason = _judge(state.best, state)
    if not (taken and best.is_file()):
        return Choice(last, state, f"the last, {_epoch(state)}{reason}")
    state = checkpoint.load(best)
    return Choice(best, state, f"best.pt, {_epoch(state)}{reason}")


def _epoch(state: Checkpoint) -> str:
    return f"epoch {state.epoch} of {state.config.epochs}" if state.step else "untrained here"


def _judge(best: dict[str, Any], last: Checkpoint) -> tuple[bool, str]:
    """-> whether `best` is to be taken instead of `last`, and why (or why not)."""
    epochs = last.config.epochs
    if last.step and last.epoch < epochs:
        return False, "; its schedule was not finished: `train --resume` finishes it"
    if not best or not last.metrics or best["top1"] <= last.metrics["top1"]:
        return False, ""
    gain, images = best["top1"] - last.metrics["top1"], last.metrics["images"]
    words = f"{100 * gain:.1f} points better on {images:,} photographs"
    if gain <= ERRORS * standard_error(best["top1"], last.metrics["top1"], images):
        return False, f"; epoch {best['epoch']} was {words}, which is chance"
    if best["epoch"] <= (1 - END) * epochs:
        return False, f"; epoch {best['epoch']} was {words}, but before the end of the schedule"
    return True, f", {words} than the last"


def standard_error(first: float, second: float, images: int) -> float:
    """Estimate that of the difference of two accuracies, each on `images` photographs."""
    shares = ((top1 * images + 1) / (images + 2) for top1 in (first, second))
    return math.sqrt(sum(share * (1 - share) / (images + 2) for share in shares))
