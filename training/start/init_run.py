"""How a run begins: with fresh weights, with those of another run, or where it was stopped."""

from collections.abc import Sequence
from pathlib import Path
from typing import Final

import torch

from training.config import Config
from training.data.measured_on import KEY as MEASURED_ON
from training.data.prepared import Dataset
from training.errors import CheckpointError
from training.model import AlexNet
from training.run import checkpoint
from training.run.checkpoint import Checkpoint
from training.run.provenance import run_provenance
from training.start.record import record_photographs, require_same_photographs
from training.start.weights import Start

MIDDLE: Final = 127.5  # of the pixels' range, where no training set has a mean


def init_run(
    config: Config, dataset: Dataset, out: Path, *, resumed: Checkpoint | None, start: Start | None
) -> tuple[Checkpoint, str]:
    """-> the state to go on from, and a line that says which. `resumed` is the run in `out`, if it goes on.

    Raises CheckpointError.
    """
    if resumed is not None:
        _same_run(resumed, dataset, out)
        resumed.config = config
        if resumed.epoch >= config.epochs:
            return resumed, f"all {config.epochs} epochs have been trained; --epochs adds more"
        return resumed, f"goes on after step {resumed.step}"
    torch.manual_seed(config.seed)
    classes = dataset.classes
    model = AlexNet(len(classes), config.width, config.weight_init, config.image_size, config.variant)
    std = [config.std] * 3
    state = Checkpoint(config, classes, dataset.mean.tolist(), std, model.state_dict())
    state.provenance = run_provenance(dataset)
    record_photographs(state, dataset)
    if start is None:
        return state, f"starts afresh with seed {config.seed}"
    words = _take_weights(model, config, classes, start)
    state.model = model.state_dict()
    state.mean, state.std = start.mean, start.std  # the weights fit the pixels that they have seen
    state.provenance["started_from"] = {k: v for k, v in start.provenance.items() if k != MEASURED_ON}
    return state, f"starts from {start.words}; {words}"


def require_shape(config: Config, start: Start) -> None:
    """Raise CheckpointError, with a line for each setting, where the weights would compute something else.

    They fit the layers without weights that they were trained with.
    """
    problems = [
        f"--from has {key} {theirs}, this run {wanted}; give it the same, or --from scratch"
        for key, theirs in start.shape.items()
        if theirs != (wanted := getattr(config, key))
    ]
    if problems:
        raise CheckpointError("\n".join(problems))


def write_untrained(config: Config, class_count: int, out: Path) -> Checkpoint:
    """Writes out/last.pt with an initialised network that nobody has trained, for benchmarks.

    Raises CheckpointError if there is something in `out`.
    """
    if out.is_dir() and any(out.iterdir()):
        raise CheckpointError(f"{out} is not empty; choose another folder")
    torch.manual_seed(config.seed)
    model = AlexNet(class_count, config.width, config.weight_init, config.image_size, config.variant)
    classes = tuple(f"class{index:04d}" for index in range(class_count))
    mean, std = [MIDDLE] * 3, [config.std] * 3
    state = Checkpoint(config, classes, mean, std, model.state_dict(), provenance={"data": "none"})
    out.mkdir(parents=True, exist_ok=True)
    checkpoint.save(state, out / "last.pt")
    (out / "config.toml").write_text(config.to_toml())
    return state


def _same_run(state: Checkpoint, dataset: Dataset, out: Path) -> None:
    """Raises CheckpointError if the checkpoint in `out` was trained on other data."""
    if state.classes != dataset.classes:
        raise CheckpointError(f"{out} was trained on other classes; start another run from it with --from")
    require_same_photographs(state, dataset, out)


def _take_weights(model: AlexNet, config: Config, classes: Sequence[str], start: Start) -> str:
    """Copy every tensor whose name and shape fit, in place, of fc8 the rows of the classes that both know.

    -> the layers that start afresh, and the classes whose rows are kept. Raises CheckpointError if none.
    """
    ours = model.state_dict()
    fitting = {k: v for k, v in start.weights.items() if k in ours and ours[k].shape == v.shape}
    kept = [name for name in classes if name in start.classes]
    rows = [start.classes.index(name) for name in kept]
    for key in ("fc8.weight", "fc8.bias"):  # equal shapes mean nothing: its rows are the classes
        fitting.pop(key, None)
        theirs = start.weights.get(key)
        if kept and theirs is not None and theirs.shape[1:] == ours[key].shape[1:]:
            fitting[key] = ours[key].index_copy(
                0, torch.tensor([classes.index(name) for name in kept]), theirs[rows]
            )
    if not fitting:
        raise CheckpointError("no layer of --from fits this run's network")
    model.load_state_dict(ours | fitting)
    fresh = sorted({name.split(".")[0] for name in ours.keys() - fitting.keys()})
    if "fc8" in fresh or len(kept) == len(classes):
        return f"afresh: {', '.join(fresh) or 'nothing'}"
    new = [name for name in classes if name not in start.classes]
    return f"afresh: {', '.join([*fresh, f'fc8 of {_some(new)}'])}; fc8 goes on with {_some(kept)}"


def _some(names: Sequence[str]) -> str:
    """The names, at most five of them."""
    more = f" and {len(names) - 5} others" if len(names) > 5 else ""
    return ", ".join(names[:5]) + more
