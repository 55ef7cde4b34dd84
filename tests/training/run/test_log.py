"""metrics.csv and TensorBoard have the same values, and a resumed run logs nothing twice."""

import time
from dataclasses import replace
from math import isnan
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from training.run.log import EpochRow, Log, read_log

ROW = EpochRow(
    epoch=1,
    loss=2.5,
    top1=0.25,
    top5=0.75,
    lr=0.01,
    images_per_second=123.456789,
    data_wait=0.015,
    val_loss=2.25,
)


def scalars(run: Path, tag: str) -> list[tuple[int, float]]:
    events = EventAccumulator(str(run / "tensorboard")).Reload()
    return [(event.step, event.value) for event in events.Scalars(tag)]


def test_metrics_csv_and_tensorboard_have_the_same_values(tmp_path: Path) -> None:
    with Log(tmp_path, 0, 0) as log:
        for step in range(1, 101):
            log.step(step, 3.0 - step / 100, 0.01)
        log.epoch(100, ROW)
        log.epoch(200, replace(ROW, epoch=2, top1=0.5))
    assert read_log(tmp_path) == [ROW, replace(ROW, epoch=2, top1=0.5)]
    assert scalars(tmp_path, "epoch/top1") == [(100, 0.25), (200, 0.5)]
    assert scalars(tmp_path, "epoch/val_loss") == [(100, 2.25), (200, 2.25)]
    assert scalars(tmp_path, "step/loss") == [(50, 2.5), (100, 2.0)]
    assert [value for _step, value in scalars(tmp_path, "epoch/data_wait")] == pytest.approx([0.015, 0.015])


def test_log_entries_after_the_last_checkpoint_are_dropped(tmp_path: Path) -> None:
    with Log(tmp_path, 0, 0) as log:
        log.epoch(100, ROW)
        log.epoch(200, replace(ROW, epoch=2, top1=0.5))
    begun = int(time.time())
    while int(time.time()) == begun:  # within one second, event files are read in the order of their names
        time.sleep(0.05)
    with Log(tmp_path, 1, 100) as log:  # killed before epoch 2 was saved
        log.epoch(200, replace(ROW, epoch=2, top1=0.625))
    assert [(row.epoch, row.top1) for row in read_log(tmp_path)] == [(1, 0.25), (2, 0.625)]
    assert scalars(tmp_path, "epoch/top1") == [(100, 0.25), (200, 0.625)]


def test_truncated_rows_and_missing_columns_of_a_log_are_tolerated(tmp_path: Path) -> None:
    (tmp_path / "metrics.csv").write_text("epoch,loss,top1,top5\n1,2.5,0.25,0.75\n2,2.0,0.")
    (row,) = read_log(tmp_path)
    assert (row.epoch, row.loss, row.top5) == (1, 2.5, 0.75)
    assert isnan(row.lr)
    assert isnan(row.val_loss)
    with Log(tmp_path, 1, 100) as log:
        log.epoch(200, replace(ROW, epoch=2))
    assert [row.epoch for row in read_log(tmp_path)] == [1, 2]
    assert not (tmp_path / "metrics.partial").exists()


def test_only_the_main_process_writes_the_log(tmp_path: Path) -> None:
    with Log(None, 0, 0) as log:
        log.step(50, 1.0, 0.1)
        log.epoch(100, ROW)
    assert list(tmp_path.iterdir()) == []
    assert read_log(tmp_path) == []
