"""The learning rate over a run: the plateau schedule, the cosine schedule and its warm-up."""

import itertools

import pytest

from training.config import Config
from training.schedule import DROPS, PLATEAU_EPOCHS, learning_rate, update_plateau


def test_the_plateau_schedule_divides_by_10_three_times_and_no_more() -> None:
    config, rates = Config(), []
    schedule: dict[str, float] = {}
    update_plateau(schedule, 0.5)
    for _epoch in range(PLATEAU_EPOCHS * (DROPS + 3)):
        rates.append(learning_rate(config, schedule, step=0, steps_per_epoch=1))
        update_plateau(schedule, 0.5)  # no better
    runs = [(rate, len(list(group))) for rate, group in itertools.groupby(rates)]
    assert [rate for rate, _ in runs] == pytest.approx([0.01, 0.001, 0.0001, 0.00001])
    assert [length for _, length in runs[:3]] == [PLATEAU_EPOCHS] * 3


def test_a_better_epoch_restarts_the_plateau_count() -> None:
    schedule: dict[str, float] = {}
    for epoch in range(10 * PLATEAU_EPOCHS):
        update_plateau(schedule, epoch // (PLATEAU_EPOCHS - 1) / 100)  # better just in time
    assert schedule.get("drops", 0) == 0
    assert learning_rate(Config(lr=0.3), schedule, 99, 1) == 0.3


def test_cosine_rises_through_the_warm_up_and_falls_to_zero() -> None:
    config = Config(schedule="cosine", epochs=10, warmup_epochs=2.0, lr=0.4)
    rates = [learning_rate(config, {}, step, steps_per_epoch=50) for step in range(500)]
    assert rates[0] == pytest.approx(0.4 / 100)
    assert rates[:100] == sorted(rates[:100])
    assert rates[99:] == sorted(rates[99:], reverse=True)
    assert rates[250] == pytest.approx(0.2)
    assert 0 < rates[-1] < 1e-5
    assert max(rates) < 0.4


def test_cosine_without_warm_up_starts_at_the_rate() -> None:
    config = Config(schedule="cosine", epochs=4, lr=0.4)
    assert learning_rate(config, {}, 0, 25) == pytest.approx(0.4)
    assert learning_rate(config, {}, 50, 25) == pytest.approx(0.2)
