"""Create the state of a run: fresh, from another run's weights, or resumed."""

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
from training.run.provenance import background_record, run_provenance
from training.start.record import record_photographs, require_same_photographs
from training.start.weights import Start

MIDDLE: Final = 127.5  # the middle of the pixels' range, for networks without a training set


def init_run(
    config: Config, dataset: Dataset, out: Path, *, resumed: Checkpoint | None, start: Start | None
) -> tuple[Checkpoint, str]:
    """Make the state to train from -> the state, and a line that describes it.

    `resumed` is the checkpoint of the run in `out`, if it is to be continued. Raises CheckpointError.
    """
    if resumed is not None:
        _require_same_data(resumed, dataset, out)
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
    changes = _take_weights(model, config, classes, start)
    state.model = model.state_dict()
    state.mean, state.std = (
        start.mean,
        start.std,
    )  # the weights expect the normalisation of their own training
    state.provenance["started_from"] = {k: v for k, v in start.provenance.items() if k != MEASURED_ON}
    return state, f"starts from {start.description}; {changes}"


def require_shape(config: Config, start: Start) -> None:
    """Raise CheckpointError, with a line for each setting, if the weights were trained in another network.

    This includes layers without weights, such as the activation.
    """
    problems = [
        f"--from has {key} {theirs}, this run {own}; use the same value, or --from scratch"
        for key, theirs in start.shape.items()
        if theirs != (own := getattr(config, key))
    ]
    if problems:
        raise CheckpointError("\n".join(problems))


def write_untrained(config: Config, class_count: int, out: Path) -> Checkpoint:
    """Write out/last.pt with an initialised, untrained network, for benchmarks.

    Raises CheckpointError if `out` is not empty.
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


def _require_same_data(state: Checkpoint, dataset: Dataset, out: Path) -> None:
    """Raise CheckpointError if the checkpoint in `out` was trained on other data."""
    if state.classes != dataset.classes:
        raise CheckpointError(f"{out} was trained on other classes; start another run from it with --from")
    require_same_photographs(state, dataset, out)
    if state.provenance.get("background") != background_record(dataset):
        raise CheckpointError(
            f"{out} was started with other background pictures; restore them, or name their folder with "
            "--background"
        )


def _take_weights(model: AlexNet, config: Config, classes: Sequence[str], start: Start) -> str:
    """Copy into `model` every tensor whose name and shape fit, and the rows of fc8 of common classes.

    -> a description of the layers that start afresh and the classes whose rows are copied. Raises
    CheckpointError if no layer fits.
    """
    ours = model.state_dict()
    fitting = {k: v for k, v in start.weights.items() if k in ours and ours[k].shape == v.shape}
    common = [name for name in classes if name in start.classes]
    rows = [start.classes.index(name) for name in common]
    for key in ("fc8.weight", "fc8.bias"):  # equal shapes are not enough: its rows are classes
        fitting.pop(key, None)
        theirs = start.weights.get(key)
        if common and theirs is not None and theirs.shape[1:] == ours[key].shape[1:]:
            fitting[key] = ours[key].index_copy(
                0, torch.tensor([classes.index(name) for name in common]), theirs[rows]
            )
    if not fitting:
        raise CheckpointError("no layer of --from fits this run's network")
    model.load_state_dict(ours | fitting)
    fresh = sorted({name.split(".")[0] for name in ours.keys() - fitting.keys()})
    if "fc8" in fresh or len(common) == len(classes):
        return f"afresh: {', '.join(fresh) or 'nothing'}"
    new = [name for name in classes if name not in start.classes]
    return f"afresh: {', '.join([*fresh, f'fc8 of {_first_five(new)}'])}; fc8 keeps {_first_five(common)}"


def _first_five(names: Sequence[str]) -> str:
    """Join at most five names, and count the others."""
    more = f" and {len(names) - 5} others" if len(names) > 5 else ""
    return ", ".join(names[:5]) + more
