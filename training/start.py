"""How a run begins: with fresh weights, with those of another run, or where it was stopped."""

from dataclasses import asdict
from pathlib import Path
from typing import Final

import torch

from training import checkpoint
from training.checkpoint import Checkpoint, CheckpointError
from training.config import Config
from training.model import AlexNet
from training.prepared import Dataset
from training.provenance import run_provenance
from training.record import record_photographs, require_same_photographs

MIDDLE: Final = 127.5  # of the pixels' range, where no training set has a mean


def begin(
    config: Config, dataset: Dataset, out: Path, resumed: Checkpoint | None, weights: Path | None
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
    if weights is None:
        return state, f"starts afresh with seed {config.seed}"
    source = checkpoint.load(checkpoint.find(weights))
    fresh = _take_weights(model, config, source)
    state.model = model.state_dict()
    state.mean, state.std = source.mean, source.std  # the weights fit the pixels that they have seen
    state.provenance["started_from"] = {"config": asdict(source.config), **source.provenance}
    return state, f"starts from {weights}; afresh: {fresh}"


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


def _take_weights(model: AlexNet, config: Config, source: Checkpoint) -> str:
    """Copies every tensor whose name and shape fit, in place; -> the layers that start afresh.

    Raises CheckpointError where the weights would compute something else here: they fit the layers
    without weights that they were trained with.
    """
    for key in ("arch", "activation", "lrn", "pooling"):
        theirs, wanted = getattr(source.config, key), getattr(config, key)
        if theirs != wanted:
            raise CheckpointError(f"--weights has {key} {theirs}, this run {wanted}; give it the same")
    ours = model.state_dict()
    fitting = {k: v for k, v in source.model.items() if k in ours and ours[k].shape == v.shape}
    if not fitting:
        raise CheckpointError("no layer of --weights fits; was it trained with another width?")
    model.load_state_dict(ours | fitting)
    return ", ".join(sorted({name.split(".")[0] for name in ours.keys() - fitting.keys()})) or "nothing"
