"""Commands to type next, with the program's name as it was typed, quoted for the shell."""

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
    """What the user has typed to start this program."""
    typed = os.environ.get("ALEXNET_COMMAND")
    return shlex.quote(typed) if typed else "python -m training"


def next_command(config: Config, data: Path, out: Path) -> str:
    """What follows the training of `out` on `data`: its export; of smaller pictures, a run at full size."""
    if config.image_size == DEFAULT_RECIPE.crop:
        words = ["export", out, "--out", Path("models") / f"{model_name(out)}.onnx", "--data", data]
    else:
        larger = out.with_name(f"{out.resolve().name}-{DEFAULT_RECIPE.crop}")
        words = ["train", "--data", data, "--out", larger, "--from", out]
    return f"{program()} {shlex.join(map(str, words))}"


def run_folder(data: Path) -> Path:
    """The folder of a run on `data` where none is given: runs/NAME, or NAME-2, ... if that is taken."""
    first = Path("runs") / model_name(data)
    taken, number = first, 1
    while contents(taken):
        number += 1
        taken = first.with_name(f"{first.name}-{number}")
    return taken


def model_name(run: Path) -> str:
    """The name of a run's folder, in what a model's name may have: a-z, 0-9, ".", "_", "-", 64 at most."""
    name = re.sub(r"[^a-z0-9._-]+", "-", run.resolve().name.lower()).strip("._-")
    return name[:64].rstrip("._-") or DEFAULT_NAME
