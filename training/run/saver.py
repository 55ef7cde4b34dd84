"""Decide when a run writes checkpoints: often enough to lose little, rarely enough to cost little."""

import time
from pathlib import Path
from typing import Final

from training.run import checkpoint
from training.run.checkpoint import Checkpoint

EVERY: Final = 60.0  # maximum seconds of work that a kill may lose
SHARE: Final = 20  # the end of an epoch is saved if that takes less than 1/SHARE of the time


class Saver:
    """Write checkpoints into `run`, keeping `keep` of step-N.pt; used in the main process."""

    def __init__(self, run: Path, keep: int) -> None:
        self.run, self.keep = run, keep
        self._saved, self._took = time.monotonic(), 0.0

    def due(self) -> bool:
        """Tell whether the last checkpoint is too old."""
        return self._since() >= EVERY

    def due_before_validation(self) -> bool:
        """Tell whether to save before a validation, so that a kill during it loses little.

        This is sooner than within an epoch, unless saving is slow: a checkpoint of 700 MB after each epoch
        of 2 s would take longer than the epochs.
        """
        return self._since() >= min(EVERY, SHARE * self._took)

    def save(self, state: Checkpoint, best: bool) -> None:
        """Write a checkpoint, also as best.pt if it is the `best` so far.

        A new best is saved at once, so that best.pt is right after a kill, too. A run that resumes from an
        earlier last.pt writes the same best.pt again.
        """
        started = time.monotonic()
        checkpoint.save_step(state, self.run, self.keep, best)
        self._saved = time.monotonic()
        self._took = self._saved - started

    def _since(self) -> float:
        return time.monotonic() - self._saved
