"""Optimiser, learning rate and running average, and the seed of every random draw of a run."""

import math
from hashlib import blake2b
from typing import Any

import torch
from torch import Generator, Tensor, nn

from training.config import Config
from training.conforms import conforms
from training.errors import CheckpointError
from training.model import AlexNet

PATIENCE = 5  # epochs without a better validation error until the plateau schedule acts
DROPS = 3  # times that it divides the rate by 10 (section 5)

ORDER, AUGMENTATION, DROPOUT = range(3)  # streams of random numbers


def seed_of(seed: int, stream: int, index: int) -> int:
    """`index` is the epoch or the step: a resumed run draws what an unbroken one would have drawn.

    Hashed, because torch's generator on the CPU looks at the lowest 32 bits alone.
    """
    return int.from_bytes(blake2b(f"{seed}/{stream}/{index}".encode(), digest_size=8).digest())


def generator_of(seed: int, stream: int, index: int) -> Generator:
    return Generator().manual_seed(seed_of(seed, stream, index))


def make_optimizer(model: AlexNet, config: Config) -> torch.optim.Optimizer:
    """Each group has its `factor` on the rate beside torch's own settings."""
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        factor = config.conv_lr if name.startswith("conv") else 1.0
        decays = config.optimizer == "sgd" or parameter.dim() > 1
        groups.setdefault((factor, config.weight_decay if decays else 0.0), []).append(parameter)
    settings = [
        {"params": parameters, "factor": factor, "lr": factor * config.lr, "weight_decay": decay}
        for (factor, decay), parameters in groups.items()
    ]
    if config.optimizer == "sgd":
        return torch.optim.SGD(settings, momentum=0.9)
    return torch.optim.AdamW(settings, fused=True)  # a third of the time on a CPU


def restore_optimizer(optimizer: torch.optim.Optimizer, saved: dict[str, Any]) -> None:
    """Load a saved state and rate; other settings stay the configuration's. Raises CheckpointError."""
    own = optimizer.state_dict()
    state: Any = saved.get("state")
    groups: Any = saved.get("param_groups")
    parameters = [weights for group in optimizer.param_groups for weights in group["params"]]
    sgd = isinstance(optimizer, torch.optim.SGD)
    wanted = {"momentum_buffer"} if sgd else {"step", "exp_avg", "exp_avg_sq"}
    if (
        not conforms(state, dict[int, dict[str, Tensor | None]])
        or not conforms(groups, list[dict[str, Any]])
        or [conforms(group.get("lr"), float) for group in groups] != [True] * len(own["param_groups"])
        or not all(
            0 <= index < len(parameters)
            and wanted <= values.keys()
            and all(v is None or not v.dim() or v.shape == parameters[index].shape for v in values.values())
            for index, values in state.items()
        )
    ):
        raise CheckpointError("last.pt is damaged: its optimiser's state is not of this network")
    settings = [
        mine | {"lr": theirs["lr"]} for mine, theirs in zip(own["param_groups"], groups, strict=True)
    ]
    optimizer.load_state_dict({"state": state, "param_groups": settings})


@torch.no_grad()
def set_rate(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Set the rate of the next step, times each group's factor; SGD's velocity stays, as in the paper.

    Section 5 has the rate e within the velocity: v <- 0.9 v - 0.0005 e w - e g; w <- w + v. torch has it
    outside: u <- 0.9 u + 0.0005 w + g; w <- w - e u, where a new e changes the old velocity e u too.
    Scaling u by the old rate over the new one keeps it.
    """
    for group in optimizer.param_groups:
        rate = lr * group["factor"]
        if group["lr"] == rate:
            continue
        for parameter in group["params"]:
            velocity = optimizer.state.get(parameter, {}).get("momentum_buffer")
            if velocity is not None:
                velocity.mul_(group["lr"] / rate)
        group["lr"] = rate


def learning_rate(config: Config, schedule: dict[str, Any], step: int, steps_per_epoch: int) -> float:
    if config.schedule == "plateau":
        return float(config.lr * 0.1 ** int(schedule.get("drops", 0)))
    total, warmup = config.epochs * steps_per_epoch, config.warmup_epochs * steps_per_epoch
    ramp: float = min(1.0, (step + 1) / warmup) if warmup else 1.0
    decay = (1 + math.cos(math.pi * step / total)) / 2
    return float(config.lr * ramp * decay)


def update_plateau(schedule: dict[str, Any], top1: float) -> None:
    """Counts epochs without a better `top1` in place, and the drops that follow from them."""
    if top1 > schedule.get("top1", -1.0):
        schedule.update(top1=top1, waited=0)
        return
    schedule["waited"] = schedule.get("waited", 0) + 1
    if schedule["waited"] >= PATIENCE and schedule.get("drops", 0) < DROPS:
        schedule.update(drops=schedule.get("drops", 0) + 1, waited=0)


@torch.no_grad()
def update_average(average: AlexNet, model: AlexNet, decay: float, step: int) -> None:
    """An exponential average of the weights whose first steps don't weigh in for long."""
    decay = min(decay, (1 + step) / (10 + step))
    for mean, value in zip(average.parameters(), model.parameters(), strict=True):
        mean.lerp_(value, 1 - decay)
