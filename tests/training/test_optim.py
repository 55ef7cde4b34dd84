"""SGD as the paper writes it, AdamW's decay, learning rates per layer, and the running average."""

import pytest
import torch

from training.config import Config
from training.model import AlexNet
from training.optim import make_optimizer, set_rate, update_average


def test_sgd_steps_as_the_paper_writes_it() -> None:
    """The rule is v <- 0.9 v - 0.0005 e w - e g; w <- w + v, on all parameters."""
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
    """The paper's formula holds when the rate falls or rises, in float64, also after a restore."""
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


def test_the_average_follows_faster_in_the_first_steps() -> None:
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
