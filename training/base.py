"""Pre-train the network on several sets of small pictures at once, as a start for later runs.

    python -m training.base --data tiny-imagenet --data cifar10 --batches 384 128 --seconds 92 --out FILE

Each DATA holds train/ and val/, a folder per class, and each set is told apart by outputs of its own. The
pictures stay at `SIDE` pixels on the device, where each batch is enlarged to the size that `--sizes` gives
for that share of the run: small sizes first, because they cost less. The maps of conv5 are averaged to 6x6,
so that one fc6 serves every size. What is written is a file for `train --from`, with the
convolutions alone, in float16.
"""

import argparse
import json
import math
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from copy import deepcopy
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Generator, Tensor

from contract.limits import usable_cores
from contract.picture import decode
from contract.preprocess import square
from contract.recipe import DEFAULT_RECIPE, Recipe
from training.augment import Draws, mix, strong
from training.config import Config
from training.data import MAX_PIXELS, channel_statistics
from training.evaluate import normalise
from training.folders import DataError, Sample, find_trees
from training.model import AlexNet
from training.optim import AUGMENTATION, generator_of, make_optimizer, update_average
from training.provenance import revision
from training.weights import SHAPE, Start, write_safetensors

SIDE: Final = 64  # pixels, of Tiny ImageNet
SMOOTHING: Final = 0.1
WARMUP: Final = 0.03  # share of the run
_CHUNK: Final = 500  # pictures that a process decodes at a time

Sizes = Sequence[tuple[float, int]]  # up to which share of the run, and the side in pixels


@dataclass(frozen=True)
class Pictures:
    """`squares` (N, SIDE, SIDE, 3) uint8 and `labels` (N,) int64, on the device."""

    squares: Tensor
    labels: Tensor


@dataclass(frozen=True)
class PictureSet:
    """One of the data sets; its classes are the network's outputs from `first` on."""

    name: str
    classes: tuple[str, ...]
    first: int
    train: Pictures
    val: Pictures

    @property
    def outputs(self) -> slice:
        return slice(self.first, self.first + len(self.classes))


def load_sets(folders: Sequence[Path], device: torch.device) -> list[PictureSet]:
    """Read every picture of every set onto `device`. Raises DataError, and ImageError for a bad picture."""
    sets: list[PictureSet] = []
    for folder in folders:
        _parts, trees = find_trees(folder)
        classes = trees[0].classes
        first = sum(len(each.classes) for each in sets)
        if len(trees) < 2:
            raise DataError(f"{folder} has no train/ and val/")
        train, val = (_read(tree.samples, device) for tree in trees)
        sets.append(PictureSet(folder.resolve().name, classes, first, train, val))
    return sets


def _read(samples: Sequence[Sample], device: torch.device) -> Pictures:
    recipe = Recipe("for training alone", SIDE, SIDE, scaled_jpeg=False)
    paths = [sample.path for sample in samples]
    chunks = [paths[start : start + _CHUNK] for start in range(0, len(paths), _CHUNK)]
    with ProcessPoolExecutor(usable_cores()) as pool:
        squares = np.concatenate(list(pool.map(partial(_squares, recipe=recipe), chunks)))
    labels = torch.tensor([sample.label for sample in samples])
    return Pictures(torch.from_numpy(squares).to(device), labels.to(device))


def _squares(paths: Sequence[Path], recipe: Recipe) -> NDArray[np.uint8]:
    return np.stack([square(decode(path.read_bytes(), recipe, MAX_PIXELS), recipe) for path in paths])


def logits_of(model: AlexNet, pixels: Tensor, mean: Sequence[float], std: float) -> Tensor:
    """Classify pixels (N, 3, H, W), 0 to 255, of any side from 63 on -> (N, classes)."""
    maps = model.features(normalise(pixels, mean, [std] * 3))
    return model.classify(F.adaptive_avg_pool2d(maps, 6).flatten(1))


def fit(
    model: AlexNet,
    sets: Sequence[PictureSet],
    batches: Sequence[int],
    sizes: Sizes,
    config: Config,
    mean: Sequence[float],
    seconds: float,
) -> tuple[AlexNet, int]:
    """Train `model` in place for `config.epochs` of the first set, or for `seconds` if they aren't 0.

    `batches` are the pictures of each set in a step. -> the running average of the weights, and the steps.
    """
    device = model.conv1.weight.device
    average, optimizer = deepcopy(model), make_optimizer(model, config)
    total = math.ceil(config.epochs * len(sets[0].train.labels) / batches[0])
    started, step = time.monotonic(), 0
    model.train()
    while (progress := (time.monotonic() - started) / seconds if seconds else step / total) < 1:
        size = next((side for until, side in sizes if progress < until), sizes[-1][1])
        generator = generator_of(config.seed, AUGMENTATION, step)
        for group in optimizer.param_groups:
            group["lr"] = (
                config.lr * min(1, progress / WARMUP + 0.01) * (1 + math.cos(math.pi * progress)) / 2
            )
        drawn = [
            _draw(each, count, size, config.mix, generator)
            for each, count in zip(sets, batches, strict=True)
        ]
        with torch.autocast(device.type, torch.bfloat16):
            logits = logits_of(model, torch.cat([pixels for pixels, _targets in drawn]), mean, config.std)
        loss = torch.zeros((), device=device)
        for each, (_pixels, targets), part in zip(
            sets, drawn, torch.split(logits.float(), list(batches)), strict=True
        ):
            loss = loss + F.cross_entropy(part[:, each.outputs], targets, reduction="sum") / len(logits)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(model.parameters(), config.clip_norm)
        optimizer.step()
        update_average(average, model, config.ema, step)
        step += 1
        if step % 200 == 0:
            print(f"step {step}  {size} pixels  {progress:.0%}  loss {loss.item():.3f}", flush=True)
    return average, step


def _draw(
    source: PictureSet, count: int, size: int, mixed: float, generator: Generator
) -> tuple[Tensor, Tensor]:
    """-> augmented pixels (count, 3, size, size) and targets (count, classes), float32."""
    chosen = torch.randint(len(source.train.labels), (count,), generator=generator)
    chosen = chosen.to(source.train.labels.device)
    pixels = strong(source.train.squares[chosen], size, Draws(generator, count, slice(0, count)))
    targets = F.one_hot(source.train.labels[chosen], len(source.classes)).float()
    targets = targets * (1 - SMOOTHING) + SMOOTHING / len(source.classes)
    if float(torch.rand((), generator=generator)) < mixed:
        pixels, targets = mix(pixels, targets, generator)
    return pixels, targets


@torch.no_grad()
def accuracy(model: AlexNet, source: PictureSet, mean: Sequence[float], std: float) -> float:
    """Measure top-1 on the validation pictures of `source`, enlarged and cropped as the service does."""
    model.eval()
    margin, right = (DEFAULT_RECIPE.resize - DEFAULT_RECIPE.crop) // 2, 0
    window = (..., slice(margin, -margin), slice(margin, -margin))
    for squares, labels in zip(
        *(torch.split(values, 250) for values in (source.val.squares, source.val.labels)), strict=True
    ):
        pixels = squares.permute(0, 3, 1, 2).float()
        pixels = F.interpolate(pixels, (DEFAULT_RECIPE.resize,) * 2, mode="bilinear")[window]
        logits = logits_of(model, pixels, mean, std)
        right += int((logits[:, source.outputs].argmax(1) == labels).sum())
    return right / len(source.val.labels)


def base_start(model: AlexNet, config: Config, mean: Sequence[float], provenance: dict[str, Any]) -> Start:
    """Keep the convolutions, in float16: what fc6 to fc8 have learnt did not help later runs."""
    weights = {k: v.half().cpu() for k, v in model.state_dict().items() if k.startswith("conv")}
    settings = asdict(config)
    shape = {key: settings[key] for key in SHAPE}
    made = {"config": settings, **provenance}
    return Start("", weights, shape, list(mean), [config.std] * 3, provenance=made)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, action="append", required=True, help="a set; may be repeated")
    parser.add_argument(
        "--batches", type=int, nargs="+", required=True, help="pictures of each set in a step"
    )
    parser.add_argument("--out", type=Path, required=True, help="the file .safetensors to write")
    parser.add_argument("--sizes", default="0.7:112,1:192", help="SHARE:PIXELS,... (default 0.7:112,1:192)")
    parser.add_argument("--width", type=float, default=1.0, help="factor on every layer (default 1)")
    parser.add_argument("--epochs", type=int, default=43, help="of the first set (default 43)")
    parser.add_argument("--seconds", type=float, default=0, help="train for so long instead of epochs")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    sizes = [(float(a), int(b)) for a, b in (pair.split(":") for pair in options.sizes.split(","))]
    config = Config(
        epochs=options.epochs, batch_size=sum(options.batches), width=options.width, seed=options.seed,
        optimizer="adamw", lr=7e-4, weight_decay=0.05, clip_norm=2.0, label_smoothing=SMOOTHING, mix=0.1,
        ema=0.999, augment="strong", weight_init="kaiming", precision="bf16", schedule="cosine",
    )  # fmt: skip
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.backends.cudnn.benchmark = True
    torch.set_float32_matmul_precision("high")
    sets = load_sets(options.data, device)
    mean = channel_statistics(sets[0].train.squares[::2].cpu())[0].tolist()
    torch.manual_seed(config.seed)
    model = AlexNet(sum(len(each.classes) for each in sets), config.width, config.weight_init)
    model.to(device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    average, steps = fit(model, sets, options.batches, sizes, config, mean, options.seconds)
    top1 = {each.name: round(accuracy(average, each, mean, config.std), 4) for each in sets}
    made = {
        "data": "+".join(top1),
        "steps": steps,
        "top1": top1,
        "sizes": options.sizes,
        "revision": revision(),
    }
    write_safetensors(options.out, base_start(average, config, mean, made))
    print(json.dumps(made))


if __name__ == "__main__":
    main()
