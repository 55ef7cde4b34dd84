"""Write and read the log of a run: metrics.csv, and events for TensorBoard."""

import csv
from dataclasses import asdict, astuple, dataclass, fields
from pathlib import Path
from typing import Final, Self

from torch.utils.tensorboard import SummaryWriter

from training.errors import CheckpointError
from training.messages import abbreviated

EVERY: Final = 50  # steps between two points of the curves by step


@dataclass(frozen=True)
class EpochRow:
    """One row of metrics.csv: an epoch, counted from 1.

    `top1` and `top5` are of the validation, 0 to 1. `data_wait` is the share of the time spent waiting for
    data. `loss` is the mean training loss, with smoothed and mixed targets; `val_loss` is the cross-entropy
    of the averaged weights on the validation photographs.
    """

    epoch: int
    loss: float
    top1: float
    top5: float
    lr: float
    images_per_second: float
    data_wait: float
    val_loss: float


class Log:
    """The log of a run, continued after `epoch` and `step`.

    Later entries, of a run that was killed after its last checkpoint, are dropped. With `run` None, as in
    processes other than the main one, nothing is written. Raises CheckpointError if the old log is damaged.
    """

    def __init__(self, run: Path | None, epoch: int, step: int) -> None:
        self._run = run
        if run is None:
            return
        rows = [astuple(row) for row in read_log(run) if row.epoch <= epoch]
        partial = run / "metrics.partial"
        with partial.open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(field.name for field in fields(EpochRow))
            writer.writerows(rows)
        partial.replace(run / "metrics.csv")  # on a full disk the old log stays
        self._events = SummaryWriter(str(run / "tensorboard"), purge_step=step + 1)

    def step(self, step: int, loss: float, lr: float) -> None:
        """Log every 50th step, for TensorBoard."""
        if self._run is not None and step % EVERY == 0:
            self._events.add_scalar("step/loss", loss, step)
            self._events.add_scalar("step/lr", lr, step)

    def epoch(self, step: int, row: EpochRow) -> None:
        """Log an epoch; `step` counts the steps of all epochs so far."""
        if self._run is None:
            return
        with (self._run / "metrics.csv").open("a", newline="") as file:
            csv.writer(file).writerow(astuple(row))
        for key, value in asdict(row).items():
            self._events.add_scalar(f"epoch/{key}", value, step)
        self._events.flush()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_raised: object) -> None:
        if self._run is not None:
            self._events.close()


def read_log(run: Path) -> list[EpochRow]:
    """Read a run's metrics.csv; no rows if there is none yet. Raises CheckpointError if it is damaged."""
    path = run / "metrics.csv"
    if not path.is_file():
        return []
    try:
        with path.open(newline="", encoding="utf-8") as file:
            rows = [
                # Logs of older versions lack columns, and a kill may have truncated the last row.
                EpochRow(int(row["epoch"]), *(float(row.get(f.name, "nan")) for f in fields(EpochRow)[1:]))
                for row in csv.DictReader(file)
                if None not in row.values()
            ]
    except (ValueError, KeyError, TypeError, csv.Error) as error:
        raise CheckpointError(
            f"{path} is damaged: {abbreviated(error)}; rename it to continue without it"
        ) from None
    if any(row.epoch < 1 for row in rows):
        raise CheckpointError(f"{path} is damaged: epochs count from 1; rename it to continue without it")
    return rows
