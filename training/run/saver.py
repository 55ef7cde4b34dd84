"""When a run writes checkpoints: so that little is lost, and little of the time goes into writing."""

import time
from pathlib import Path
from typing import Final

from training.run import checkpoint
from training.run.checkpoint import Checkpoint

EVERY: Final = 60.0  # seconds of work that may be lost
SHARE: Final = 20  # an epoch's end is saved where that takes less than 1/SHARE of the time


class Saver:
    """Writes into `run`, and keeps `keep` of step-N.pt; in the first of several processes."""

    def __init__(self, run: Path, keep: int) -> None:
        self.run, self.keep = run, keep
        self._saved, self._took = time.monotonic(), 0.0

    def due(self) -> bool:
        return self._since() >= EVERY

    def due_before_validation(self) -> bool:
        """Sooner than within an epoch: what a validation needs is not trained again if it is cut off. But a
        checkpoint of 700 MB after each epoch of 2 s would take longer than the epochs.
        """
        return self._since() >= min(EVERY, SHARE * self._took)

    def save(self, state: Checkpoint, best: bool) -> None:
        """What is better than all before is written at once: then best.pt is right after a kill, too. A run
        that goes on from an earlier last.pt comes to the same best.pt again.
        """
        started = time.monotonic()
        checkpoint.save_step(state, self.run, self.keep, best)
        self._saved = time.monotonic()
        self._took = self._saved - started

    def _since(self) -> float:
        return time.monotonic() - self._saved
