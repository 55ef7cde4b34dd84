"""Weights that others have published become a run of ours and a model file.

torchvision's AlexNet is `--arch torchvision` here. Its pixels are [0, 1] less a mean over a deviation,
scaled as `contract.recipe` has it under an id of its own.
"""

from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import torch
from torch import Tensor

from contract.manifest import Manifest
from contract.recipe import TORCHVISION_RECIPE
from training import checkpoint
from training.checkpoint import Checkpoint, CheckpointError
from training.config import Config
from training.download import DownloadError, digest, download
from training.export import export

# AlexNet_Weights.IMAGENET1K_V1, and the accuracy that its publisher gives for it.
URL: Final = "https://download.pytorch.org/models/alexnet-owt-7be5be79.pth"
SHA256: Final = "7be5be791159472b1fbf3c69796f7cb30dca7ad8466c2df70058c37116cdee02"
METRICS: Final = {"images": 50_000, "top1": 0.56522, "top5": 0.79066}
MEAN: Final = (0.485, 0.456, 0.406)
STD: Final = (0.229, 0.224, 0.225)
LAYERS: Final = {
    "features.0": "conv1",
    "features.3": "conv2",
    "features.6": "conv3",
    "features.8": "conv4",
    "features.10": "conv5",
    "classifier.1": "fc6",
    "classifier.4": "fc7",
    "classifier.6": "fc8",
}


def import_torchvision(source: str, out: Path, sha256: str | None = None) -> Manifest:
    """`source`, a file or URL, -> out/last.pt, a run to evaluate or to train on from, and
    out/imagenet.onnx, a model file; -> the manifest of that.

    What comes from the network must have `sha256`, by default the published file's; a file only if one
    is given. Raises DownloadError, CheckpointError or ExportError.
    """
    for name in ("last.pt", "best.pt"):
        if (out / name).exists():
            raise CheckpointError(f"{out} holds a run already, {name}; choose another folder")
    path = Path(source)
    if not path.is_file():
        path, sha256 = out / source.rsplit("/", 1)[-1], sha256 or SHA256
        if not path.is_file():
            download(source, path, sha256)
    found = digest(path)
    if sha256 not in {None, found}:
        raise DownloadError(f"{path} has SHA-256 {found}, not {sha256}; remove it, or name the right one")
    state = Checkpoint(
        Config(arch="torchvision", weight_init="kaiming"),
        imagenet_classes(),
        [255 * value for value in MEAN],
        [255 * value for value in STD],
        to_alexnet(_read(path)),
        preprocessing=TORCHVISION_RECIPE.id,
    )
    state.metrics = dict(METRICS) if found == SHA256 else {}
    state.provenance = {
        "date": datetime.now(UTC).date().isoformat(),
        "data": "ImageNet-1k, by its publisher's account",
        "source": f"{path.name}, SHA-256 {found}",
    }
    try:
        checkpoint.restore_model(state)
    except CheckpointError as error:
        raise CheckpointError(f"{path} is not torchvision's AlexNet: {error}") from None
    out.mkdir(parents=True, exist_ok=True)
    checkpoint.save(state, out / "last.pt")
    (out / "config.toml").write_text(state.config.to_toml())
    return export(out / "last.pt", out / "imagenet.onnx")


def to_alexnet(theirs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """torchvision's names of weights and biases -> ours. Raises CheckpointError if there are others."""
    names = {
        f"{layer}.{kind}": f"{ours}.{kind}" for layer, ours in LAYERS.items() for kind in ("weight", "bias")
    }
    if theirs.keys() != names.keys():
        odd = ", ".join(sorted(names.keys() ^ theirs.keys())[:3])
        raise CheckpointError(f"this is no state dict of torchvision's AlexNet: it differs in {odd}")
    return {names[name]: values for name, values in theirs.items()}


def imagenet_classes() -> tuple[str, ...]:
    lines = (Path(__file__).parent / "imagenet.txt").read_text(encoding="utf-8").splitlines()
    return tuple(line for line in lines if not line.startswith("#"))


def _read(path: Path) -> Mapping[str, Tensor]:
    try:
        record = torch.load(path, map_location="cpu", weights_only=True)
    except (PermissionError, IsADirectoryError) as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror or error}") from error
    # torch raises what its unpickler and zip reader happen to hit, and recommends to run the file's code.
    except Exception as error:
        raise CheckpointError(
            f"{path} is no state dict of torch's: it is cut off, or another file"
        ) from error
    if not isinstance(record, Mapping):
        raise CheckpointError(f"{path} holds {type(record).__name__}, not a state dict")
    return record
