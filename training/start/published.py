"""Import published weights (torchvision's AlexNet) as a run and a model file.

Its architecture is `--arch torchvision`. It takes pixels in [0, 1], less a mean, over a standard deviation;
its scaling is the recipe `contract.recipe.TORCHVISION_RECIPE`.
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

# AlexNet_Weights.IMAGENET1K_V1, with the accuracy that torchvision publishes.
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
    """Import `source`, a file or URL, as the run out/last.pt and a model file.

    The model file is out/imagenet.onnx, or out/imported.onnx for other classes. A download must have
    `sha256`, by default that of the published file; a local file is checked only if one is given. `labels`
    is a file of class names. A failed import leaves nothing but the download.
    -> the path and manifest of the model file. Raises DownloadError, CheckpointError or ExportError.
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
            unfinished.replace(out / "last.pt")  # last: only then is the folder a run
        except BaseException:
            for leftover in (unfinished, settings):
                leftover.unlink(missing_ok=True)
            raise
    return model, manifest


@contextmanager
def _emptied(out: Path) -> Iterator[None]:
    """Remove the folder if it is empty after a failure."""
    try:
        yield
    except BaseException:
        if out.is_dir() and not any(out.iterdir()):
            out.rmdir()
        raise


def _state(path: Path, sha256: str | None, labels: Path | None) -> Checkpoint:
    """Make a checkpoint of the weights in `path`."""
    actual = digest(path)
    if sha256 not in {None, actual}:
        raise DownloadError(f"{path} has SHA-256 {actual}, not {sha256}; remove it, or correct --sha256")
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
        raise CheckpointError(f"{path} is not a usable AlexNet of torchvision's: {error}") from None
    state.metrics = dict(METRICS) if actual == SHA256 else {}
    state.provenance = {
        "date": datetime.now(UTC).date().isoformat(),
        "data": "ImageNet-1k, by its publisher's account" if classes == imagenet_classes() else "not known",
        "source": f"{path.name}, SHA-256 {actual}",
    }
    return state


def _classes(outputs: int, labels: Path | None) -> tuple[str, ...]:
    """Read the class names in `labels`; without it, ImageNet's for 1000 outputs, else class0, ..."""
    if labels is None:
        known = imagenet_classes()
        return known if outputs == len(known) else tuple(f"class{index}" for index in range(outputs))
    try:
        names = tuple(line.strip() for line in labels.read_text(encoding="utf-8-sig").splitlines())
    except UnicodeDecodeError:
        raise DownloadError(f"{labels} is not UTF-8 text") from None
    while names and not names[-1]:
        names = names[:-1]
    bad_name = next((name for name in names if not name or names.count(name) > 1), None)
    if len(names) != outputs or bad_name is not None:
        problem = (
            f"{len(names)} lines" if bad_name is None else f"{abbreviated(bad_name, 60)!r} more than once"
        )
        if bad_name == "":
            problem = "an empty line"
        raise DownloadError(
            f"{labels} has {problem}; the network has {outputs} outputs; write one name per line for each"
        )
    return names


def to_alexnet(theirs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename torchvision's weights and biases to this program's. Raises CheckpointError for others."""
    names = {
        f"{layer}.{kind}": f"{ours}.{kind}" for layer, ours in LAYERS.items() for kind in ("weight", "bias")
    }
    if theirs.keys() != names.keys():
        differences = ", ".join(abbreviated(name, 40) for name in sorted(names.keys() ^ theirs.keys())[:3])
        raise CheckpointError(f"it differs in {differences}")
    return {names[name]: values for name, values in theirs.items()}


def imagenet_classes() -> tuple[str, ...]:
    """Return the 1000 class names of ImageNet-1k, in the order of torchvision's outputs."""
    lines = (Path(__file__).parent / "imagenet.txt").read_text(encoding="utf-8").splitlines()
    return tuple(line for line in lines if not line.startswith("#"))
