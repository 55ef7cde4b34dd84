"""Load the run that `--resume` continues, and compare its settings with those of the command line."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

from training.config import Config, option_name
from training.errors import CheckpointError
from training.run import checkpoint
from training.run.checkpoint import Checkpoint
from training.run.lock import contents


def load_resumable(out: Path) -> Checkpoint | None:
    """Load the run in `out`, to be continued; None if the folder is empty or missing.

    Raises CheckpointError if there are files but no last.pt, or if it is not a run of `train`.
    """
    if (out / "last.pt").is_file():
        state = checkpoint.load(out / "last.pt")
        if "images" not in state.provenance:
            raise CheckpointError(f"{out} was not made by `train`; start a run from it with --from {out}")
        return state
    if names := contents(out):
        more = f" and {len(names) - 10} more" if len(names) > 10 else ""
        raise CheckpointError(
            f"{out} has no last.pt to resume from, and is not empty: {', '.join(names[:10])}{more}; "
            "choose another folder, or start from a checkpoint with --from"
        )
    return None


def compare_settings(run: Config, requested: Config, out: Path) -> str:
    """Compare the settings of the run in `out` with the `requested` ones: only more epochs are allowed.

    -> a warning about more epochs, or "". Raises CheckpointError with a line for each other difference.
    """
    ours, theirs = asdict(run), asdict(requested)
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
    if requested == run:
        return ""
    warning = f"warning: {requested.epochs} epochs instead of {run.epochs}"
    if run.schedule == "cosine":
        warning += "; the learning rate is that of the longer schedule from here on, so it rises"
    return warning


def _shown(value: Any) -> str:
    """Format a setting's value as it is typed; a switch as on or off."""
    return {True: "on", False: "off"}[value] if isinstance(value, bool) else str(value)
