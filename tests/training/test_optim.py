"""Schedules, seeds, decay and the running average."""

import itertools

import pytest
import torch

from training.config import Config
from training.model import AlexNet
from training.optim import (
    AUGMENTATION,
    DROPOUT,
    DROPS,
    ORDER,
    PATIENCE,
    generator_of,
    learning_rate,
    make_optimizer,
    seed_of,
    set_rate,
    update_average,
    update_plateau,
)


def test_the_plateau_schedule_divides_by_10_three_times_and_no_more() -> None:
    config, rates = Config(), []
    schedule: dict[str, float] = {}
    update_plateau(schedule, 0.5)
    for _epoch in range(PATIENCE * (DROPS + 3)):
        rates.append(learning_rate(config, schedule, step=0, steps_per_epoch=1))
        update_plateau(schedule, 0.5)  # no better
    runs = [(rate, len(list(group))) for rate, group in itertools.groupby(rates)]
    assert [rate for rate, _ in runs] == pytest.approx([0.01, 0.001, 0.0001, 0.00001])
    assert [length for _, length in runs[:3]] == [PATIENCE] * 3


def test_a_better_epoch_starts_the_patience_anew() -> None:
    schedule: dict[str, float] = {}
    for epoch in range(10 * PATIENCE):
        update_plateau(schedule, epoch // (PATIENCE - 1) / 100)  # better just in time
    assert schedule.get("drops", 0) == 0
    assert learning_rate(Config(lr=0.3), schedule, 99, 1) == 0.3


def test_cosine_rises_through_the_warm_up_and_falls_to_nothing() -> None:
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


def test_seed_stream_and_step_all_change_the_draws() -> None:
    """Also in the lowest 32 bits of the seeds: torch's generator on the CPU looks at no others."""
    places = list(
        itertools.product((0, 1, 2, 2**32 - 1), (ORDER, AUGMENTATION, DROPOUT), (0, 1, 2, 90_000))
    )
    draws = {tuple(torch.rand(4, generator=generator_of(*place)).tolist()) for place in places}
    assert len(draws) == len(places)
    assert all(0 <= seed_of(*place) < 2**64 for place in places)
    assert generator_of(1, ORDER, 5).get_state().equal(generator_of(1, ORDER, 5).get_state())


def test_sgd_steps_as_the_paper_writes_it() -> None:
    """v <- 0.9 v - 0.0005 e w - e g; w <- w + v, on all parameters."""
    torch.manual_seed(0)
    model, rate = AlexNet(2, 0.01), 0.01
    optimizer = make_optimizer(model, Config())
    expected = {name: p.detach().double().clone() for name, p in model.named_parameters()}
    velocity = {name: torch.zeros_like(p) for name, p in expected.items()}
    for step in range(3):
        for name, p in model.named_parameters():
            p.grad = torch.full_like(p, 0.1 * (step + 1))
            velocity[name] = 0.9 * velocity[name] - 0.0005 * rate * expected[name] - rate * 0.1 * (step + 1)
            expected[name] = expected[name] + velocity[name]
        optimizer.step()
    for name, p in model.named_parameters():
        torch.testing.assert_close(p.detach().double(), expected[name], rtol=1e-5, atol=1e-7)


def test_sgd_keeps_its_velocity_when_the_rate_changes() -> None:
    """The paper's formula over drops and rises of the rate, in float64; also where a copy goes on."""
    torch.manual_seed(0)
    model = AlexNet(2, 0.01).double()
    optimizer = make_optimizer(model, Config())
    expected = {name: p.detach().clone() for name, p in model.named_parameters()}
    velocity = {name: torch.zeros_like(p) for name, p in expected.items()}
    for step, rate in enumerate([0.01, 0.01, 0.001, 0.0001, 0.0001, 0.02, 0.003]):
        if step == 3:
            optimizer, before = make_optimizer(model, Config()), optimizer
            optimizer.load_state_dict(before.state_dict())
        set_rate(optimizer, rate)
        for name, p in model.named_parameters():
            p.grad = torch.randn_like(p)
            velocity[name] = 0.9 * velocity[name] - 0.0005 * rate * expected[name] - rate * p.grad
            expected[name] = expected[name] + velocity[name]
        optimizer.step()
    for name, p in model.named_parameters():
        torch.testing.assert_close(p.detach(), expected[name], rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_convolutions_take_their_own_rate(optimizer: str) -> None:
    torch.manual_seed(0)
    moved = {}
    for factor in (0.0, 0.1, 1.0):
        model = AlexNet(2, 0.01, "kaiming")
        before = {name: p.detach().clone() for name, p in model.named_parameters()}
        own = make_optimizer(model, Config(optimizer=optimizer, conv_lr=factor, weight_decay=0.0))
        for p in model.parameters():
            p.grad = torch.ones_like(p)
        own.step()  # at the rate of the settings
        set_rate(own, 0.03)
        own.step()
        moved[factor] = {
            name: float((before[name] - p.detach()).mean()) for name, p in model.named_parameters()
        }
    for name, whole in moved[1.0].items():
        share = 0.1 if name.startswith("conv") else 1.0
        assert moved[0.1][name] == pytest.approx(share * whole, rel=1e-3)
        assert (moved[0.0][name] == 0) == name.startswith("conv")


def test_adamw_decays_weights_and_spares_biases() -> None:
    model = AlexNet(2, 0.01)
    optimizer = make_optimizer(model, Config(optimizer="adamw", weight_decay=0.1, lr=0.5))
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    for p in model.parameters():
        p.grad = torch.zeros_like(p)
    optimizer.step()
    for name, p in model.named_parameters():
        factor = 1 if name.endswith("bias") else 1 - 0.5 * 0.1
        torch.testing.assert_close(p.detach(), before[name] * factor)


def test_the_average_follows_quickly_at_first_and_slowly_later() -> None:
    model, average = AlexNet(2, 0.01), AlexNet(2, 0.01)
    for p, mean in zip(model.parameters(), average.parameters(), strict=True):
        p.data.fill_(1.0)
        mean.data.fill_(0.0)
    update_average(average, model, 0.99, step=0)
    assert average.fc8.bias[0].item() == pytest.approx(0.9)
    for mean in average.parameters():
        mean.data.fill_(0.0)
    update_average(average, model, 0.99, step=10_000)
    assert average.fc8.bias[0].item() == pytest.approx(0.01)
