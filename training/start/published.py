"""Weights that others have published become a run of ours and a model file.

torchvision's AlexNet is `--arch torchvision` here. Its pixels are [0, 1] less a mean over a deviation,
scaled as `contract.recipe` has it under an id of its own.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from torch import Tensor

from contract.manifest import Manifest
from contract.recipe import TORCHVISION_RECIPE
from training.config import Config
from training.errors import CheckpointError, DownloadError
from training.export.export import export
from training.messages import abbreviated
from training.run import checkpoint
from training.run.checkpoint import Checkpoint
from training.start.download import digest, download
from training.start.tensorfile import read_tensors

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


def import_torchvision(
    source: str, out: Path, sha256: str | None = None, labels: Path | None = None
) -> tuple[Path, Manifest]:
    """`source`, a file or URL, -> out/last.pt, a run to evaluate or to train on from, and a model file.

    -> path and manifest of that: out/imagenet.onnx, or out/imported.onnx where the classes are others.

    What comes from the network must have `sha256`, by default the published file's; a file only if one
    is given. Of an import that fails, nothing stays but what was downloaded. Raises DownloadError,
    CheckpointError or ExportError.
    """
    for name in ("last.pt", "best.pt"):
        if (out / name).exists():
            raise CheckpointError(f"{out} holds a run already, {name}; choose another folder")
    path = Path(source)
    with _emptied(out):
        if not path.is_file():
            path, sha256 = out / source.rsplit("/", 1)[-1], sha256 or SHA256
            if not path.is_file():
                download(source, path, sha256)
        state = _state(path, sha256, labels)
        out.mkdir(parents=True, exist_ok=True)
        model = out / ("imagenet.onnx" if state.classes == imagenet_classes() else "imported.onnx")
        unfinished, settings = out / "import.partial.pt", out / "config.toml"
        try:
            checkpoint.save(state, unfinished)
            settings.write_text(state.config.to_toml())
            manifest = export(unfinished, model)
            unfinished.replace(out / "last.pt")  # last: without it the folder is no run
        except BaseException:
            for rest in (unfinished, settings):
                rest.unlink(missing_ok=True)
            raise
    return model, manifest


@contextmanager
def _emptied(out: Path) -> Iterator[None]:
    """Take the folder away again if it is empty after a failure."""
    try:
        yield
    except BaseException:
        if out.is_dir() and not any(out.iterdir()):
            out.rmdir()
        raise


def _state(path: Path, sha256: str | None, labels: Path | None) -> Checkpoint:
    """The run that the weights in `path` become."""
    found = digest(path)
    if sha256 not in {None, found}:
        raise DownloadError(f"{path} has SHA-256 {found}, not {sha256}; remove it, or name the right one")
    tensors = read_tensors(path)
    try:
        weights = to_alexnet(tensors)
        if not all(values.isfinite().all() for values in weights.values()):
            raise CheckpointError("it holds NaN or infinity")
        classes = _classes(len(weights["fc8.bias"]), labels)
        state = Checkpoint(
            Config(arch="torchvision", weight_init="kaiming"),
            classes,
            [255 * value for value in MEAN],
            [255 * value for value in STD],
            weights,
            preprocessing=TORCHVISION_RECIPE.id,
        )
        checkpoint.restore_model(state)
    except CheckpointError as error:
        raise CheckpointError(f"{path} is no usable AlexNet of torchvision's: {error}") from None
    state.metrics = dict(METRICS) if found == SHA256 else {}
    state.provenance = {
        "date": datetime.now(UTC).date().isoformat(),
        "data": "ImageNet-1k, by its publisher's account" if classes == imagenet_classes() else "not known",
        "source": f"{path.name}, SHA-256 {found}",
    }
    return state


def _classes(outputs: int, labels: Path | None) -> tuple[str, ...]:
    """The names in the file `labels`; without one ImageNet's for its number of outputs, else class0, ..."""
    if labels is None:
        known = imagenet_classes()
        return known if outputs == len(known) else tuple(f"class{index}" for index in range(outputs))
    try:
        names = tuple(line.strip() for line in labels.read_text(encoding="utf-8-sig").splitlines())
    except UnicodeDecodeError:
        raise DownloadError(f"{labels} is no text in UTF-8") from None
    while names and not names[-1]:
        names = names[:-1]
    odd = next((name for name in names if not name or names.count(name) > 1), None)
    if len(names) != outputs or odd is not None:
        problem = f"{len(names)} lines" if odd is None else f"{abbreviated(odd, 60)!r} more than once"
        if odd == "":
            problem = "an empty line"
        raise DownloadError(f"{labels} has {problem}; the network has {outputs} outputs, each with a name")
    return names


def to_alexnet(theirs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """torchvision's names of weights and biases -> ours. Raises CheckpointError if there are others."""
    names = {
        f"{layer}.{kind}": f"{ours}.{kind}" for layer, ours in LAYERS.items() for kind in ("weight", "bias")
    }
    if theirs.keys() != names.keys():
        odd = ", ".join(abbreviated(name, 40) for name in sorted(names.keys() ^ theirs.keys())[:3])
        raise CheckpointError(f"it differs in {odd}")
    return {names[name]: values for name, values in theirs.items()}


def imagenet_classes() -> tuple[str, ...]:
    lines = (Path(__file__).parent / "imagenet.txt").read_text(encoding="utf-8").splitlines()
    return tuple(line for line in lines if not line.startswith("#"))
