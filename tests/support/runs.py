"""Train small runs in this process or a subprocess, and make checkpoints for tests."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Any

import torch
from torch.optim.optimizer import register_optimizer_step_post_hook

from tests.support.checkout import ROOT
from training.__main__ import main
from training.config import Config
from training.model import AlexNet, weighted_layers
from training.run import checkpoint
from training.run.checkpoint import Checkpoint

CLASSES = ("blue", "green", "orange", "white")
MEAN = [120.5, 110.25, 99.0]
COLOURS = {"blue": (40, 60, 200), "orange": (220, 130, 30), "white": (225, 225, 220)}
TINY = [
    *("--recipe", "paper", "--width", "0.05", "--epochs", "1", "--batch-size", "4", "--device", "cpu"),
    *("--lr", "0.001"),
]
# 12 pictures in batches of 4: 3 steps per epoch, 9 in total.
PAPER = [
    *("--recipe", "paper", "--width", "0.05", "--epochs", "3", "--batch-size", "4", "--device", "cpu"),
    *("--seed", "5", "--lr", "0.001"),
]
MODERN = [
    *(*PAPER, "--optimizer", "adamw", "--schedule", "cosine", "--warmup-epochs", "1"),
    *("--augment", "strong", "--mix", "0.5", "--ema", "0.9", "--label-smoothing", "0.1"),
    *("--weight-init", "kaiming", "--clip-norm", "1", "--precision", "bf16"),
]


def python(*arguments: object) -> subprocess.Popen[str]:
    """Start a Python process in the checkout, with line-buffered output."""
    return subprocess.Popen(
        [sys.executable, "-W", "error", *map(str, arguments)],
        cwd=ROOT,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def trained(
    path: Path, weight_init: str = "kaiming", image_size: int = 224, seed: int = 0, **variant: Any
) -> Path:
    """Write a checkpoint whose answers differ from image to image."""
    config = Config(width=0.08, weight_init=weight_init, image_size=image_size, epochs=4, **variant)
    torch.manual_seed(seed)
    model = AlexNet(len(CLASSES), config.width, weight_init, image_size, config.variant)
    for name, layer in weighted_layers(model):
        if name != "conv1" and weight_init == "paper":
            layer.weight.data *= 6  # larger weights, to matter beside biases of 1
    torch.nn.init.normal_(model.fc8.weight, std=0.5 if weight_init == "kaiming" else 0.03)
    state = Checkpoint(config, CLASSES, MEAN, [config.std] * 3, model.state_dict(), epoch=3, step=99)
    state.metrics = {"images": 40, "top1": 0.75, "top5": 1.0}
    state.provenance = {"data": "colours", "seconds": 12.5}
    checkpoint.save(state, path)
    return path


def images(count: int, seed: int = 0) -> torch.Tensor:
    """Make blurred noise (count, 224, 224, 3) uint8, on which answers differ."""
    draw = torch.Generator().manual_seed(seed)
    coarse = torch.rand(count, 3, 6, 6, generator=draw) * 255
    pixels = torch.nn.functional.interpolate(coarse, size=(224, 224), mode="bilinear")
    return pixels.permute(0, 2, 3, 1).round().to(torch.uint8).contiguous()


def train(data: Path, out: Path, *options: str) -> int:
    """Train a tiny run -> the exit code."""
    return main(["train", "--data", str(data), "--out", str(out), *TINY, *options])


def train_as(data: Path, out: Path, *options: str) -> int:
    """Train with only these options, usually PAPER or MODERN -> the exit code."""
    return main(["train", "--data", str(data), "--out", str(out), *options])


def same(ours: Any, theirs: Any) -> bool:
    """Compare nested records that hold tensors, to the last bit."""
    if isinstance(ours, torch.Tensor):
        return torch.equal(ours, theirs)
    if isinstance(ours, dict):
        return ours.keys() == theirs.keys() and all(same(v, theirs[k]) for k, v in ours.items())
    if isinstance(ours, list | tuple):
        return len(ours) == len(theirs) and all(map(same, ours, theirs))
    return bool(ours == theirs)


@contextmanager
def ctrl_c_at(update: int) -> Iterator[None]:
    """Send SIGINT to this process at optimiser step `update`."""
    updates = count(1)

    def interrupt(*_step: object) -> None:
        if next(updates) == update:
            os.kill(os.getpid(), signal.SIGINT)

    hook = register_optimizer_step_post_hook(interrupt)
    try:
        yield
    finally:
        hook.remove()
