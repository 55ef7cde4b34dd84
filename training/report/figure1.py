"""Repeat the paper's Figure 1: a four-layer network on CIFAR-10, with ReLU and with tanh.

Each activation gets the learning rate, of a grid, with which it first reaches 25 % training error. The
paper does not describe the network; this one has its input size and four layers with weights. There is no
regularisation: no dropout, weight decay, augmentation or normalisation.
"""

import json
import zipfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from contract.picture import decode
from contract.preprocess import square
from contract.recipe import Recipe
from training.data.folders import class_names, scan
from training.data.images import MAX_PIXELS, channel_statistics, load_pictures
from training.errors import DataError
from training.report.plots import Line, line_chart

TARGET = 0.25  # training error, as a fraction
RATES = (0.03, 0.01, 0.1, 0.003, 0.001)  # the most promising first: later ones stop once they are slower
BATCH = 128
WINDOWS = 2  # recordings of the error per epoch
RECIPE = Recipe("for figure 1 alone", 32, 32, scaled_jpeg=False)
COLOURS = {"relu": "#4a90d9", "tanh": "#d9772a"}

Curves = dict[str, dict[str, list[float]]]  # activation -> learning rate -> error per window


def figure1(data: Path, out: Path, epochs: int, seed: int) -> str:
    """Train the whole grid, and write figure1.json and figure1.svg into `out` -> the ratio in words.

    Both files are written after each learning rate; a second call with the same data and settings goes on
    from there.
    Raises DataError.
    """
    images, labels = read_images(data)
    mean, covariance = channel_statistics(images)
    pixels = (images.float() - mean.float()) / covariance.trace().div(3).sqrt().float()
    pixels = pixels.permute(0, 3, 1, 2).contiguous(memory_format=torch.channels_last)
    out.mkdir(parents=True, exist_ok=True)
    record = out / "figure1.json"
    settings = {"images": len(images), "epochs": epochs, "seed": seed}
    curves: Curves = {"relu": {}, "tanh": {}}
    if record.is_file():
        written = json.loads(record.read_text())
        if written["settings"] != settings:
            raise DataError(
                f"{out} was started with {written['settings']}, not {settings}; use another --out"
            )
        curves = written["curves"]
    for activation, done in curves.items():
        for rate in map(str, RATES):
            if rate in done:
                continue
            best = min((n for n in map(epochs_to_target, done.values()) if n is not None), default=epochs)
            done[rate] = train(pixels, labels, activation, float(rate), best, seed)
            partial = record.with_suffix(".partial")
            partial.write_text(json.dumps({"settings": settings, "curves": curves}, indent=1))
            partial.replace(record)
            print(f"{activation}, learning rate {rate}: {verdict(done[rate])}", flush=True)
            (out / "figure1.svg").write_text(picture(curves))
    first = {name: best_of(rates) for name, rates in curves.items()}
    relu, tanh = (epochs_to_target(curves[name][rate]) for name, rate in first.items())
    if relu is None or tanh is None:
        return f"no ratio: not both reached {TARGET:.0%} training error within {epochs} epochs"
    return f"tanh took {tanh / relu:.1f} times the epochs of ReLU ({tanh:.1f} and {relu:.1f})"


def read_images(data: Path) -> tuple[Tensor, Tensor]:
    """Read train/CLASS/IMAGE of a folder or zip -> (N, 32, 32, 3) uint8 and labels (N,) int64.

    Raises DataError.
    """
    if not data.is_file():
        if not (data / "train").is_dir():
            raise DataError(f"{data} has no train/ with a folder of images per class")
        names = class_names(data / "train")
        split, _reading = load_pictures(scan(data / "train", names, names).samples, RECIPE, "read")
        return split.pixels, split.labels
    archive = zipfile.ZipFile(data)
    members = sorted(n for n in archive.namelist() if n.startswith("train/") and not n.endswith("/"))
    files = [(name.split("/")[1], archive.read(name)) for name in members]
    classes = sorted({name for name, _ in files})
    if len(classes) < 2:
        raise DataError(f"{data} has no train/ with a folder of images per class")
    with ThreadPoolExecutor() as pool:
        arrays = pool.map(lambda file: square(decode(file[1], RECIPE, MAX_PIXELS), RECIPE).copy(), files)
        images = torch.stack([torch.from_numpy(array) for array in arrays])
    return images, torch.tensor([classes.index(name) for name, _ in files])


def four_layers(activation: str, classes: int) -> nn.Sequential:
    """Build the network: three 5x5 convolutions of 32, 32 and 64 kernels, each pooled 3/2, and fc.

    (N, 3, 32, 32) -> logits (N, classes).
    """
    layers: list[nn.Module] = []
    for before, after in ((3, 32), (32, 32), (32, 64)):
        layers += [nn.Conv2d(before, after, 5, padding=2), nn.MaxPool2d(3, 2, padding=1)]
        layers.append(nn.ReLU() if activation == "relu" else nn.Tanh())
    net = nn.Sequential(*layers, nn.Flatten(), nn.Linear(64 * 4 * 4, classes))
    for layer in net:
        if isinstance(layer, nn.Conv2d | nn.Linear):
            assert layer.bias is not None
            nn.init.xavier_normal_(layer.weight, nn.init.calculate_gain(activation))  # type: ignore[arg-type]
            nn.init.zeros_(layer.bias)
    return net


def train(
    pixels: Tensor, labels: Tensor, activation: str, rate: float, epochs: float, seed: int
) -> list[float]:
    """Train until TARGET, for `epochs`, or until the loss is not finite -> the error of each window.

    Every image counts as it is classified just before the step that trains on it.
    """
    torch.manual_seed(seed)
    net = four_layers(activation, int(labels.max()) + 1).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimizer = torch.optim.SGD(net.parameters(), rate, momentum=0.9)
    errors: list[float] = []
    while True:
        for window in torch.randperm(len(labels)).chunk(WINDOWS):
            wrong = 0
            for batch in torch.split(window, BATCH):
                logits = net(pixels[batch])
                loss = F.cross_entropy(logits, labels[batch])
                optimizer.zero_grad()
                loss.backward()  # type: ignore[no-untyped-call]
                optimizer.step()
                wrong += int((logits.argmax(1) != labels[batch]).sum())
            errors.append(wrong / len(window))
            if errors[-1] <= TARGET or len(errors) / WINDOWS >= epochs or not loss.isfinite():
                return errors


def epochs_to_target(errors: Sequence[float]) -> float | None:
    """Return the epochs until the end of the first window at the target; None if there is none."""
    reached = next((i for i, error in enumerate(errors, 1) if error <= TARGET), None)
    return None if reached is None else reached / WINDOWS


def verdict(errors: Sequence[float]) -> str:
    """Describe the result of one learning rate."""
    reached = epochs_to_target(errors)
    if reached is not None:
        return f"{TARGET:.0%} after {reached:.1f} epochs"
    return f"{errors[-1]:.1%} when it was stopped after {len(errors) / WINDOWS:.1f} epochs"


def best_of(rates: dict[str, list[float]]) -> str:
    """Return the learning rate that first reaches the target; if none does, that with the least error."""
    return min(rates, key=lambda r: (epochs_to_target(rates[r]) or float("inf"), min(rates[r])))


def picture(curves: Curves) -> str:
    """Draw the best curve of each activation as SVG: training error over epochs."""
    lines = []
    for name, rates in curves.items():
        if rates:
            rate = best_of(rates)
            points = [(i / WINDOWS, error) for i, error in enumerate(rates[rate], 1)]
            label = f"{name}, learning rate {rate}: {verdict(rates[rate])}"
            lines.append(Line(label, COLOURS[name], points))
    return line_chart(lines, "training error by epoch,", 1, percent=True)
