"""A network and what changes it: one step of the optimiser after the other, in any precision, on any
number of processes.
"""

from collections.abc import Iterator
from typing import Any, Final, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from training.batches import Batch, augmented
from training.conforms import conforms
from training.distributed import Ranks
from training.errors import CheckpointError
from training.evaluate import Classify, normalise, torch_classifier
from training.optim import DROPOUT, make_optimizer, seed_of, set_rate, update_average
from training.run import checkpoint
from training.run.checkpoint import Checkpoint

AUTOCAST: Final = {"bf16": torch.bfloat16, "fp16": torch.float16}


class Learner:
    """Begins with what `state` holds. `colours` are those of `augment.paper`."""

    def __init__(self, state: Checkpoint, colours: Tensor, ranks: Ranks) -> None:
        self.config, self.ranks = state.config, ranks
        self.mean, self.std, self.colours = state.mean, state.std, colours.to(ranks.device)
        self.classes = len(state.classes)
        self.averaged = checkpoint.restore_model(state)
        self.model = checkpoint.restore_model(state) if self.config.ema else self.averaged
        if state.raw is not None:
            self.model.load_state_dict(state.raw)
        for model in (self.model, self.averaged):
            model.to(ranks.device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.optimizer = make_optimizer(self.model, self.config)
        self.scaler = torch.amp.GradScaler(ranks.device.type, enabled=self.config.precision == "fp16")
        if state.optimizer:
            _restore_optimizer(self.optimizer, state.optimizer)
        if state.scaler:
            self.scaler.load_state_dict(state.scaler)
        compiled = cast(nn.Module, torch.compile(self.model)) if self.config.compile else self.model
        self.network = ranks.wrap(compiled)

    def step(self, batches: Iterator[Batch], number: int, lr: float) -> tuple[float, float]:
        """Takes as many `batches` as make one step; -> this process's mean loss, and the seconds for which
        it had to wait for them.
        """
        config, loss, waited = self.config, 0.0, 0.0
        set_rate(self.optimizer, lr)
        self.optimizer.zero_grad()
        for turn in range(config.accumulate):
            batch = next(batches)
            pixels, targets = augmented(batch, config, self.classes, self.colours)
            torch.manual_seed(seed_of(config.seed, DROPOUT, number * batch.total + batch.rows.start))
            with self.ranks.without_exchange(self.network, turn + 1 < config.accumulate):
                part = self._loss(pixels, targets) / config.accumulate
                self.scaler.scale(part).backward()  # type: ignore[no-untyped-call]
            loss += part.item()
            waited += batch.waited
        if config.clip_norm:
            self.scaler.unscale_(self.optimizer)
            nn.utils.clip_grad_norm_(self.model.parameters(), config.clip_norm)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        if config.ema:
            update_average(self.averaged, self.model, config.ema, number)
        return loss, waited

    def _loss(self, pixels: Tensor, targets: Tensor) -> Tensor:
        dtype = AUTOCAST.get(self.config.precision)
        with torch.autocast(self.ranks.device.type, dtype, enabled=dtype is not None):
            logits = self.network(normalise(pixels, self.mean, self.std))
        return F.cross_entropy(logits.float(), targets)

    def finite(self) -> bool:
        """Whether all that `store` would store are numbers."""
        buffers = (v for state in self.optimizer.state.values() for v in state.values())
        tensors = [*self.model.parameters(), *self.averaged.parameters(), *buffers]
        return all(bool(t.isfinite().all()) for t in tensors if isinstance(t, Tensor))

    def classifier(self) -> Classify:
        return torch_classifier(self.averaged, self.mean, self.std)

    def store(self, state: Checkpoint) -> None:
        """Everything that a later `Learner(state, ...)` needs to go on."""
        state.model = self.averaged.state_dict()
        state.raw = self.model.state_dict() if self.config.ema else None
        state.optimizer, state.scaler = self.optimizer.state_dict(), self.scaler.state_dict()


def _restore_optimizer(optimizer: torch.optim.Optimizer, saved: dict[str, Any]) -> None:
    """Go on with a saved state and rate; other settings are the configuration's. Raises CheckpointError."""
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
