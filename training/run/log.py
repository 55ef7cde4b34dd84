"""What a run writes down while it trains: metrics.csv for people and scripts, events for TensorBoard."""

import csv
from dataclasses import asdict, astuple, dataclass, fields
from pathlib import Path
from typing import Final, Self

from torch.utils.tensorboard import SummaryWriter

from training.errors import CheckpointError
from training.messages import abbreviated

EVERY: Final = 50  # steps between two points of the curves within an epoch


@dataclass(frozen=True)
class EpochRow:
    """`epoch` counts from 1; `top1` and `top5` are of the validation, fractions of 1, as is `data_wait`:
    the share of the time in which there was no batch to train on. `loss` is the training's, smoothed and
    mixed as its targets are; `val_loss` the cross-entropy of the validation, of the averaged weights.
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
    """Goes on after `epoch` and `step`: what a run that was killed had written beyond them is dropped.

    Without a `run` folder, for processes other than the first, it writes nothing.
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
        if self._run is not None and step % EVERY == 0:
            self._events.add_scalar("step/loss", loss, step)
            self._events.add_scalar("step/lr", lr, step)

    def epoch(self, step: int, row: EpochRow) -> None:
        """`step` counts the steps of all epochs until now."""
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
    """Read the rows of a run's metrics.csv; none if it has not got one yet. Raises CheckpointError."""
    path = run / "metrics.csv"
    if not path.is_file():
        return []
    try:
        with path.open(newline="", encoding="utf-8") as file:
            rows = [
                # A log that an older version began may lack a column, and a kill may have cut off the
                # last row.
                EpochRow(int(row["epoch"]), *(float(row.get(f.name, "nan")) for f in fields(EpochRow)[1:]))
                for row in csv.DictReader(file)
                if None not in row.values()
            ]
    except (ValueError, KeyError, TypeError, csv.Error) as error:
        raise CheckpointError(
            f"{path} is damaged: {abbreviated(error)}; rename it to go on without"
        ) from None
    if any(row.epoch < 1 for row in rows):
        raise CheckpointError(f"{path} is damaged: epochs count from 1; rename it to go on without")
    return rows
