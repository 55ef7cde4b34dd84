"""Which run `--resume` goes on with, and whether what else was said agrees with it."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

from training.config import Config, option_name
from training.errors import CheckpointError
from training.run import checkpoint
from training.run.checkpoint import Checkpoint
from training.run.lock import contents


def load_resumable(out: Path) -> Checkpoint | None:
    """The run in `out`, where it was stopped; None if nothing is there, or not even a folder.

    Raises CheckpointError if there are files without last.pt: what they are is not for us to guess.
    """
    if (out / "last.pt").is_file():
        state = checkpoint.load(out / "last.pt")
        if "images" not in state.provenance:
            raise CheckpointError(f"{out} was not made by `train`; start a run from it with --from {out}")
        return state
    if names := contents(out):
        more = f" and {len(names) - 10} more" if len(names) > 10 else ""
        raise CheckpointError(
            f"{out} has no last.pt to go on from, and is not empty: {', '.join(names[:10])}{more}; "
            "choose another folder, or start from a checkpoint with --from"
        )
    return None


def compare_settings(run: Config, given: Config, out: Path) -> str:
    """Compare the settings of the run in `out` with those that were given: more epochs are fine.

    -> a warning, or "". Raises CheckpointError with a line for each other setting that differs.
    """
    ours, theirs = asdict(run), asdict(given)
    problems = [
        f"{option_name(key)} is {_shown(ours[key])} in {out} and {_shown(theirs[key])} here; "
        + (
            "it can only grow"
            if key == "epochs"
            else "leave it out, or start another run from it with --from"
        )
        for key in ours
        if ours[key] != theirs[key] and not (key == "epochs" and theirs[key] > ours[key])
    ]
    if problems:
        raise CheckpointError("\n".join(problems))
    if given == run:
        return ""
    words = f"warning: {given.epochs} epochs instead of {run.epochs}"
    if run.schedule == "cosine":
        words += "; the learning rate is that of the longer schedule from here on, so it rises"
    return words


def _shown(value: Any) -> str:
    """A setting's value as it is typed; of a switch, on or off."""
    return {True: "on", False: "off"}[value] if isinstance(value, bool) else str(value)
