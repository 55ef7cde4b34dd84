"""Print the progress of a run: a bar on a terminal, else a line every 20 s, with the time left."""

import sys
import time
from dataclasses import dataclass
from typing import Final, NoReturn, Self

from tqdm import tqdm

from training.run.log import EpochRow

EVERY: Final = 20.0  # minimum seconds between two lines


@dataclass
class Mean:
    """A running mean."""

    total: float = 0.0
    count: int = 0

    def add(self, total: float, count: int = 1) -> None:
        """Add `count` values, whose sum is `total`."""
        self.total += total
        self.count += count

    @property
    def value(self) -> float:
        """The mean of all values; 0 without any."""
        return self.total / max(self.count, 1)


class Progress:
    """The progress of a run of `epochs` epochs of `steps` steps of `images` images.

    Only the process with `speaks` prints. The time left is estimated from the steps of this process, and
    from its validations after the first one.
    """

    def __init__(self, epochs: int, steps: int, images: int, speaks: bool) -> None:
        self.epochs, self.steps, self.images, self._speaks = epochs, steps, images, speaks
        self._lines = not (sys.stdout.isatty() and sys.stderr.isatty())
        self._bar: tqdm[NoReturn] | None = None
        self._steps_timed, self._others_timed = Mean(), Mean()  # others: validation and saving
        self._last_line = time.monotonic()
        self._warm = False  # set by the first report, whose steps take longer and are not timed

    def begin_epoch(self, epoch: int, step: int) -> None:
        """Start epoch `epoch`, counted from 0, of which `step` steps are done."""
        self.epoch, self.step, self._validations = epoch, step, self.epochs - epoch
        self._bar = tqdm(
            desc=f"epoch {epoch + 1}/{self.epochs}",
            total=self.steps * self.images,
            initial=step * self.images,
            unit="img",
            leave=False,
            disable=None if self._speaks else True,  # None: no bar if stderr is not a terminal
        )
        self._since = time.monotonic()

    def end_steps(self, count: int, loss: float, lr: float) -> None:
        """Report `count` steps; `loss` is the mean of the epoch so far."""
        self.step += count
        seconds = self._lap()
        if self._warm:
            self._steps_timed.add(seconds, count)
        self._warm = True
        left = self._left()
        assert self._bar is not None
        self._bar.set_postfix_str(f"loss {loss:.3f}, lr {lr:.2g}{left and ', '}{left}", refresh=False)
        self._bar.update(count * self.images)
        if self.step < self.steps:  # a line about the epoch follows its last step
            self._print_sometimes(f"step {self.step}/{self.steps}  loss {loss:.3f}  {left}")

    def validating(self, share: float) -> None:
        """Report that this share of the validation is done."""
        self._print_sometimes(f"validation, {share:.0%} of it done")

    def end_epoch(self, row: EpochRow) -> None:
        """Report an epoch after its validation and checkpoint."""
        self._close_bar()
        self._others_timed.add(self._lap())
        self._validations -= 1
        self._print(
            f"loss {row.loss:.3f}, validation {row.val_loss:.3f}  "
            f"top-1 {row.top1:.1%}  top-5 {row.top5:.1%}  "
            f"{row.images_per_second:.3g} img/s, {row.data_wait:.0%} of the time waiting for data  "
            + (self._left() if row.epoch < self.epochs else "")
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_raised: object) -> None:
        self._close_bar()

    def _close_bar(self) -> None:
        if self._bar is not None:
            self._bar.close()

    def _left(self) -> str:
        """Estimate the time until the run's end, in words; "" before any step was timed."""
        if not self._steps_timed.count:
            return ""
        steps = (self.epochs - self.epoch) * self.steps - self.step
        return (
            duration(steps * self._steps_timed.value + self._validations * self._others_timed.value)
            + " left"
        )

    def _print_sometimes(self, text: str) -> None:
        if self._lines and time.monotonic() - self._last_line >= EVERY:
            self._print(text)

    def _print(self, text: str) -> None:
        if self._speaks:
            print(f"epoch {self.epoch + 1}/{self.epochs}  {text}".rstrip(), flush=True)
        self._last_line = time.monotonic()

    def _lap(self) -> float:
        """Return the seconds since the last call."""
        before, self._since = self._since, time.monotonic()
        return self._since - before


def duration(seconds: float) -> str:
    """Format a time in one or two units: "40 s", "12 min", "3 h 20 min", "2 d 5 h"."""
    minutes = round(seconds / 60)
    if seconds < 90:
        return f"{seconds:.0f} s"
    if minutes < 60:
        return f"{minutes} min"
    if minutes < 24 * 60:
        return f"{minutes // 60} h {minutes % 60} min"
    hours = round(seconds / 3600)
    return f"{hours // 24} d {hours % 24} h"
