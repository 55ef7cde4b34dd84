"""Suggest the next command and default names: run folders, model names."""

import os
import re
import shlex
from pathlib import Path
from typing import Final

from contract.recipe import DEFAULT_RECIPE
from training.config import Config
from training.run.lock import contents

DEFAULT_NAME: Final = "model"


def program() -> str:
    """Return the command that started this program, quoted for the shell."""
    typed = os.environ.get("ALEXNET_COMMAND")
    return shlex.quote(typed) if typed else "python -m training"


def next_command(config: Config, data: Path, out: Path) -> str:
    """Suggest the command after training `out`: its export, or below 224 pixels a run at full size."""
    if config.image_size == DEFAULT_RECIPE.crop:
        arguments = ["export", out, "--out", Path("models") / f"{model_name(out)}.onnx", "--data", data]
    else:
        larger = out.with_name(f"{out.resolve().name}-{DEFAULT_RECIPE.crop}")
        arguments = ["train", "--data", data, "--out", larger, "--from", out]
    return f"{program()} {shlex.join(map(str, arguments))}"


def run_folder(data: Path) -> Path:
    """Choose the default run folder for `data`: runs/NAME, or NAME-2, NAME-3, ... if that is taken."""
    first = Path("runs") / model_name(data)
    folder, number = first, 1
    while contents(folder):
        number += 1
        folder = first.with_name(f"{first.name}-{number}")
    return folder


def model_name(run: Path) -> str:
    """Turn a run folder's name into a model name: a-z, 0-9, ".", "_", "-", at most 64 characters."""
    name = re.sub(r"[^a-z0-9._-]+", "-", run.resolve().name.lower()).strip("._-")
    return name[:64].rstrip("._-") or DEFAULT_NAME
