"""When a run has diverged: its loss is no number, or it rose and does not come back."""

from collections import deque
from math import isfinite, log
from statistics import fmean
from typing import Final

from training.config import Config
from training.errors import Diverged

MIN_SCALE: Final = 1e-4  # of fp16's loss: gradients overflow even when they are divided by 10,000
RISE: Final = 1.5  # times (ln(classes) + 1): more than any start or learning rate that learns has shown
LEARNING: Final = 0.95  # times ln(classes): below it, something has been learnt
RETURN_STEPS, RETURN_EPOCHS = 20, 2  # for which a loss that rose may stay up, whichever is longer
HINT_EPOCH: Final = 10  # epochs until a flat loss is worth a word


class LossWatch:
    """Looks at every step's loss, which is the same in all processes, and says when to give up.

    Guessing costs ln(classes), however targets are smoothed and mixed: equal probabilities have that
    cross-entropy with any of them. A healthy run may stay there for epochs, as the paper's does on
    ImageNet, so a flat loss stops nothing; nor does a spike alone, from which runs recover. What does:

    - a loss that is NaN or infinite, at once, because the weights follow. (Gradients of fp16 may overflow;
      the scaler leaves such steps out and halves its scale, until that is below MIN_SCALE.)
    - a mean of three steps above RISE * (ln(classes) + 1), unless within RETURN_EPOCHS epochs, and at least
      RETURN_STEPS steps, a mean of ten is below LEARNING * ln(classes). Such a rise has cost units their
      life: the loss stays up, or falls back to guessing, and hardly any picture moves the answers. The
      paper's rate on 160 photographs of 5 classes: 3, 20, 35, 24, 12, 6, 5, 2.3, 1.6, and 1.6 for ever.
      Large sets have epochs of many steps, and so much longer to come back.

    A run that is resumed is watched anew.
    """

    def __init__(self, config: Config, classes: int, steps: int) -> None:
        self._config, self._classes, self._steps = config, classes, steps
        self._guessing = log(classes)
        self._losses: deque[float] = deque(maxlen=10)
        self._highest, self._risen = 0.0, 0  # the step at which it was found to have risen; 0: it has not

    def look(self, step: int, loss: float, scale: float) -> None:
        """At a step, counted from 1, with the scale of fp16's loss (else 1). Raises Diverged."""
        if not isfinite(loss):
            raise self.diverged(step, f"the loss is {loss}")
        if scale < MIN_SCALE:
            raise self.diverged(
                step, f"gradients are too large for fp16, even those of the loss times {scale:.1e}"
            )
        self._losses.append(loss)
        lately = list(self._losses)
        if len(lately) >= 3 and fmean(lately[-3:]) > RISE * (self._guessing + 1):
            self._risen = self._risen or step
        if not self._risen:
            return
        self._highest = max(self._highest, *lately)
        if len(lately) == 10 and fmean(lately) < LEARNING * self._guessing:
            self._highest, self._risen = 0.0, 0
        elif step - self._risen >= max(RETURN_STEPS, RETURN_EPOCHS * self._steps):
            raise self.diverged(
                step,
                f"the loss rose to {self._highest:.3g} by step {self._risen}, is {loss:.3g} now, and has "
                f"not been below that of guessing, {self._guessing:.2f} for {self._classes} classes, since",
            )

    def hint(self, epoch: int, loss: float) -> str:
        """What to say after an epoch, counted from 1, with that mean loss; "" for nothing."""
        if epoch != HINT_EPOCH or self._risen or abs(loss / self._guessing - 1) > 1 - LEARNING:
            return ""
        return (
            f"after {epoch} epochs the loss is still that of guessing, {self._guessing:.2f} for "
            f"{self._classes} classes. With many photographs that can be the beginning; with few, try "
            f"{self._remedies()}"
        )

    def diverged(self, step: int, what: str) -> Diverged:
        return Diverged(
            f"step {step} (epoch {(step - 1) // self._steps + 1} of {self._config.epochs}): {what}. Try "
            f"{self._remedies()}, in another folder. last.pt is from before, and its weights are finite"
        )

    def _remedies(self) -> str:
        config = self._config
        words = [f"a lower --lr (it is {config.lr:g})", f"--clip-norm {config.clip_norm / 2 or 1:g}"]
        if config.optimizer == "sgd":
            words.append("--recipe modern")
        if config.precision == "fp16":
            words.append("--precision bf16")
        return f"{', '.join(words[:-1])} or {words[-1]}"
