"""Build and restore the optimiser, set its rate, and average the weights."""

from typing import Any

import torch
from torch import Tensor, nn

from training.config import Config
from training.conforms import conforms
from training.errors import CheckpointError
from training.model import AlexNet


def make_optimizer(model: AlexNet, config: Config) -> torch.optim.Optimizer:
    """Build SGD with momentum 0.9, or AdamW, over all parameters of `model`.

    Each parameter group has, beside torch's own settings, a `factor` on the learning rate: `conv_lr` for
    the convolutions, else 1. SGD decays all parameters, as in the paper; AdamW spares the biases.
    """
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
    """Load the state and learning rates of `saved`, a state dict; other settings stay as configured.

    Raises CheckpointError if the state is not that of this optimiser and network.
    """
    own = optimizer.state_dict()
    state: Any = saved.get("state")
    groups: Any = saved.get("param_groups")
    parameters = [weights for group in optimizer.param_groups for weights in group["params"]]
    sgd = isinstance(optimizer, torch.optim.SGD)
    required = {"momentum_buffer"} if sgd else {"step", "exp_avg", "exp_avg_sq"}
    if (
        not conforms(state, dict[int, dict[str, Tensor | None]])
        or not conforms(groups, list[dict[str, Any]])
        or [conforms(group.get("lr"), float) for group in groups] != [True] * len(own["param_groups"])
        or not all(
            0 <= index < len(parameters)
            and required <= values.keys()
            and all(v is None or not v.dim() or v.shape == parameters[index].shape for v in values.values())
            for index, values in state.items()
        )
    ):
        raise CheckpointError("last.pt is damaged: its optimiser state does not belong to this network")
    settings = [
        configured | {"lr": restored["lr"]}
        for configured, restored in zip(own["param_groups"], groups, strict=True)
    ]
    optimizer.load_state_dict({"state": state, "param_groups": settings})


@torch.no_grad()
def set_rate(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Set the learning rate of the next step, times each group's factor, keeping SGD's velocity.

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


@torch.no_grad()
def update_average(average: AlexNet, model: AlexNet, decay: float, step: int) -> None:
    """Move `average` towards the weights of `model`, in place: an exponential moving average.

    The decay of step n is at most (1 + n) / (10 + n), so that the first weights soon stop counting.
    """
    decay = min(decay, (1 + step) / (10 + step))
    for mean, value in zip(average.parameters(), model.parameters(), strict=True):
        mean.lerp_(value, 1 - decay)
