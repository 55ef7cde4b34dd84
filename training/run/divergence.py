"""Detect that a run has diverged: its loss is NaN or infinite, or rose and did not recover."""

from collections import deque
from math import isfinite, log
from statistics import fmean
from typing import Final

from training.config import Config
from training.errors import Diverged

MIN_SCALE: Final = 1e-4  # of fp16's loss: below it, gradients overflow even divided by 10,000
RISE: Final = 1.5  # times (ln(classes) + 1): higher than in any run that went on to learn
LEARNING: Final = 0.95  # times ln(classes): below it, the network has learnt something
RETURN_STEPS, RETURN_EPOCHS = 20, 2  # a loss that rose may stay high for the longer of the two
HINT_EPOCH: Final = 10  # the epoch after which a flat loss is reported


class LossWatch:
    """Watch every step's loss, the same in all processes, and raise Diverged if the run cannot recover.

    Equal probabilities give a loss of ln(classes), even with smoothed and mixed targets. A healthy run may
    stay there for epochs, as the paper's does on ImageNet, so a flat loss does not stop it; nor does a
    single spike, from which runs recover. These do:

    - A loss that is NaN or infinite stops it at once, because the weights become so too. (Gradients in
      fp16 may overflow; the scaler skips such steps and halves its scale, until that is below MIN_SCALE.)
    - A mean of three steps above RISE * (ln(classes) + 1), unless within RETURN_EPOCHS epochs, and at least
      RETURN_STEPS steps, a mean of ten steps is below LEARNING * ln(classes). Such a rise leaves dead
      units: the loss stays high, or falls to ln(classes) and stays there. For example, the paper's rate on
      160 photographs of 5 classes: 3, 20, 35, 24, 12, 6, 5, 2.3, 1.6, and 1.6 from then on. Large sets have
      epochs of many steps, and so have longer to recover.

    A resumed run is watched from the start again.
    """

    def __init__(self, config: Config, classes: int, steps: int) -> None:
        self._config, self._classes, self._steps = config, classes, steps
        self._guessing = log(classes)
        self._losses: deque[float] = deque(maxlen=10)
        self._highest, self._risen = 0.0, 0  # _risen: the step at which the rise was detected; 0: none

    def check(self, step: int, loss: float, scale: float) -> None:
        """Check the loss of a step, counted from 1. Raises Diverged.

        `scale` is the loss scale of fp16, else 1.
        """
        if not isfinite(loss):
            raise self.diverged(step, f"the loss is {loss}")
        if scale < MIN_SCALE:
            raise self.diverged(
                step, f"gradients are too large for fp16, even those of the loss times {scale:.1e}"
            )
        self._losses.append(loss)
        recent = list(self._losses)
        if len(recent) >= 3 and fmean(recent[-3:]) > RISE * (self._guessing + 1):
            self._risen = self._risen or step
        if not self._risen:
            return
        self._highest = max(self._highest, *recent)
        if len(recent) == 10 and fmean(recent) < LEARNING * self._guessing:
            self._highest, self._risen = 0.0, 0
        elif step - self._risen >= max(RETURN_STEPS, RETURN_EPOCHS * self._steps):
            raise self.diverged(
                step,
                f"the loss rose to {self._highest:.3g} by step {self._risen}, is {loss:.3g} now, and has "
                f"not fallen below guessing since, {self._guessing:.2f} for {self._classes} classes",
            )

    def hint(self, epoch: int, loss: float) -> str:
        """Return a hint if, after HINT_EPOCH epochs, the mean loss is still that of guessing; else ""."""
        if epoch != HINT_EPOCH or self._risen or abs(loss / self._guessing - 1) > 1 - LEARNING:
            return ""
        return (
            f"after {epoch} epochs the loss is still that of guessing, {self._guessing:.2f} for "
            f"{self._classes} classes. With many photographs it may still fall; with few, try "
            f"{self._remedies()}"
        )

    def diverged(self, step: int, reason: str) -> Diverged:
        """Make the exception for a run that diverged at `step`."""
        return Diverged(
            f"step {step} (epoch {(step - 1) // self._steps + 1} of {self._config.epochs}): {reason}. Try "
            f"{self._remedies()}, in another folder. last.pt is from before that; its weights are finite"
        )

    def _remedies(self) -> str:
        config = self._config
        remedies = [f"a lower --lr (it is {config.lr:g})", f"--clip-norm {config.clip_norm / 2 or 1:g}"]
        if config.optimizer == "sgd":
            remedies.append("--recipe modern")
        if config.precision == "fp16":
            remedies.append("--precision bf16")
        return f"{', '.join(remedies[:-1])} or {remedies[-1]}"
