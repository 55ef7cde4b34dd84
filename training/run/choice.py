"""Choose between last.pt and best.pt when a command is given a run folder.

The default is last.pt, where the schedule ends. The best of E epochs on n photographs is mostly the
luckiest of E draws unless n is large, and its accuracy is too optimistic. So best.pt is taken only if

- the schedule was finished, and best.pt is from its last `END`, where the learning rate is small;
- it is better than last.pt by more than `ERRORS` standard errors of the difference of two accuracies, so
  that an epoch that is as good, or better by chance, changes nothing.

The standard error is that of Agresti and Caffo (2000), with one correct and one wrong answer added to each
accuracy: without them it would be 0 where all answers are correct. It assumes two independent sets of
photographs; on the same set the true one is smaller.
"""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from training.errors import CheckpointError
from training.run import checkpoint
from training.run.checkpoint import Checkpoint

END: Final = 0.2  # share of the epochs
ERRORS: Final = 2.0


@dataclass(frozen=True)
class Choice:
    """A checkpoint and its path; `description` says in one line which one it is and why."""

    path: Path
    state: Checkpoint
    description: str


def choose(source: Path) -> Choice:
    """Load the file `source`, or the checkpoint to use of a run folder.

    Raises CheckpointError, also if the weights hold NaN or infinity.
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
    is_better, reason = _is_better(state.best, state)
    if not (is_better and best.is_file()):
        return Choice(last, state, f"the last, {_epoch(state)}{reason}")
    state = checkpoint.load(best)
    return Choice(best, state, f"best.pt, {_epoch(state)}{reason}")


def _epoch(state: Checkpoint) -> str:
    return f"epoch {state.epoch} of {state.config.epochs}" if state.step else "untrained here"


def _is_better(best: dict[str, Any], last: Checkpoint) -> tuple[bool, str]:
    """Decide whether to take `best` instead of `last` -> the decision and its reason in words."""
    epochs = last.config.epochs
    if last.step and last.epoch < epochs:
        return False, "; its schedule was not finished: `train --resume` finishes it"
    if not best or not last.metrics or best["top1"] <= last.metrics["top1"]:
        return False, ""
    gain, images = best["top1"] - last.metrics["top1"], last.metrics["images"]
    gain_text = f"{100 * gain:.1f} points better on {images:,} photographs"
    if gain <= ERRORS * standard_error(best["top1"], last.metrics["top1"], images):
        return False, f"; epoch {best['epoch']} was {gain_text}, which is chance"
    if best["epoch"] <= (1 - END) * epochs:
        return False, f"; epoch {best['epoch']} was {gain_text}, but before the end of the schedule"
    return True, f", {gain_text} than the last"


def standard_error(first: float, second: float, images: int) -> float:
    """Estimate the standard error of the difference of two accuracies (0 to 1) on `images` each."""
    shares = ((top1 * images + 1) / (images + 2) for top1 in (first, second))
    return math.sqrt(sum(share * (1 - share) / (images + 2) for share in shares))
