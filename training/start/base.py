"""Pre-train the base network, from which later runs start, on several sets of small pictures.

Each set holds train/ and val/ with a folder per class, and has its own outputs. The pictures stay at `SIDE`
pixels in memory; each batch is enlarged to `SMALL` pixels, which cost less, and towards the end of the run
to `LARGE`. The maps of conv5 are averaged to 6x6, so that one fc6 fits every size. The result is a file for
`train --from`, with only the convolutions, in float16.
"""

import argparse
import math
import time
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from contract.recipe import DEFAULT_RECIPE
from training.config import Config
from training.data.augment import Draws, mix, strong
from training.data.images import channel_statistics
from training.data.small_pictures import PictureSet, load_sets
from training.errors import CheckpointError, ConfigError
from training.evaluate import normalise
from training.model import AlexNet
from training.optim import make_optimizer, update_average
from training.run.checkpoint import read_record
from training.run.provenance import revision
from training.run.saver import EVERY
from training.run.signals import Interrupted, Signals, catch_signals
from training.seeding import AUGMENTATION, DROPOUT, generator_of, seed_of
from training.start.narrow import narrowed
from training.start.tensorfile import SUFFIX
from training.start.weights import SHAPE, Start, read_start, write_safetensors

SMALL: Final = 112  # pixels
LARGE: Final = 160  # pixels
SMALL_SHARE: Final = 0.8  # share of the run at SMALL pixels
SMOOTHING: Final = 0.1  # label smoothing
WARMUP: Final = 0.03  # share of the run


@dataclass
class Progress:
    """The state of a pre-training run, and its checkpoint file `path`.

    `average` is the running average of `model`'s weights. A run can only be resumed with the same
    `settings`.
    """

    path: Path
    settings: dict[str, Any]
    model: AlexNet
    average: AlexNet
    optimizer: torch.optim.Optimizer
    step: int = 0

    def save(self) -> None:
        """Write the checkpoint, replacing the one before."""
        record = {key: getattr(self, key).state_dict() for key in ("model", "average", "optimizer")}
        partial = self.path.with_suffix(".partial")
        torch.save(record | {"step": self.step, "settings": self.settings}, partial)
        partial.replace(self.path)

    def load(self) -> None:
        """Restore the last checkpoint. Raises CheckpointError if its settings differ."""
        record = read_record(self.path)
        if record.get("settings") != self.settings:
            raise CheckpointError(
                f"{self.path} was written with other settings; use the same ones, or remove the file"
            )
        for key in ("model", "average", "optimizer"):
            getattr(self, key).load_state_dict(record[key])
        self.step = record["step"]


def logits_of(model: AlexNet, pixels: Tensor, mean: Sequence[float], std: float) -> Tensor:
    """Compute logits (N, classes) of pixels (N, 3, H, W), 0 to 255, of at least 63 pixels per side."""
    maps = model.features(normalise(pixels, mean, [std] * 3))
    return model.classify(F.adaptive_avg_pool2d(maps, 6).flatten(1))


def fit(
    progress: Progress,
    sets: Sequence[PictureSet],
    batches: Sequence[int],
    config: Config,
    mean: Sequence[float],
    signals: Signals,
) -> None:
    """Train in place for `config.epochs` of the first set, with a checkpoint every minute.

    `batches` are the numbers of pictures of each set in a step. Raises Interrupted after a checkpoint.
    """
    model, device = progress.model, progress.model.conv1.weight.device
    total = math.ceil(config.epochs * len(sets[0].train.labels) / batches[0])
    saved = time.monotonic()
    model.train()
    while progress.step < total:
        done = progress.step / total
        size = SMALL if done < SMALL_SHARE else LARGE
        generator = generator_of(config.seed, AUGMENTATION, progress.step)
        for group in progress.optimizer.param_groups:
            group["lr"] = config.lr * min(1, done / WARMUP + 0.01) * (1 + math.cos(math.pi * done)) / 2
        drawn = [
            _draw(picture_set, count, size, config.mix, generator)
            for picture_set, count in zip(sets, batches, strict=True)
        ]
        torch.manual_seed(seed_of(config.seed, DROPOUT, progress.step))
        with torch.autocast(device.type, torch.bfloat16):
            logits = logits_of(model, torch.cat([pixels for pixels, _targets in drawn]), mean, config.std)
        loss = torch.zeros((), device=device)
        for picture_set, (_pixels, targets), part in zip(
            sets, drawn, torch.split(logits.float(), list(batches)), strict=True
        ):
            loss = loss + F.cross_entropy(part[:, picture_set.outputs], targets, reduction="sum") / len(
                logits
            )
        progress.optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(model.parameters(), config.clip_norm)
        progress.optimizer.step()
        update_average(progress.average, model, config.ema, progress.step)
        progress.step += 1
        if progress.step % 200 == 0:
            print(f"step {progress.step} of {total}  {size} pixels  loss {loss.item():.3f}", flush=True)
        if signals.stopping or time.monotonic() - saved > EVERY:
            progress.save()
            saved = time.monotonic()
        if signals.stopping:
            raise Interrupted(f"stopped after step {progress.step}; repeat the command to continue")


def _draw(
    source: PictureSet, count: int, size: int, mixed: float, generator: Generator
) -> tuple[Tensor, Tensor]:
    """Draw and augment pictures -> pixels (count, 3, size, size), targets (count, classes), float32."""
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
    """Measure top-1 on the validation pictures of `source`, scaled and cropped as the service does."""
    model.eval()
    margin, correct = (DEFAULT_RECIPE.resize - DEFAULT_RECIPE.crop) // 2, 0
    window = (..., slice(margin, -margin), slice(margin, -margin))
    for squares, labels in zip(
        *(torch.split(values, 250) for values in (source.val.squares, source.val.labels)), strict=True
    ):
        pixels = squares.permute(0, 3, 1, 2).float()
        pixels = F.interpolate(pixels, (DEFAULT_RECIPE.resize,) * 2, mode="bilinear")[window]
        logits = logits_of(model, pixels, mean, std)
        correct += int((logits[:, source.outputs].argmax(1) == labels).sum())
    return correct / len(source.val.labels)


def base_start(model: AlexNet, config: Config, mean: Sequence[float], provenance: dict[str, Any]) -> Start:
    """Keep only the convolutions, in float16: the weights of fc6 to fc8 did not help later runs."""
    weights = {k: v.half().cpu() for k, v in model.state_dict().items() if k.startswith("conv")}
    settings = asdict(config)
    shape = {key: settings[key] for key in SHAPE}
    origin = {"config": settings, **provenance}
    return Start("", weights, shape, list(mean), [config.std] * 3, provenance=origin)


def make_base(options: argparse.Namespace) -> dict[str, Any]:
    """Run the command `base`: train, and write the file -> its provenance.

    Raises ConfigError, DataError, CheckpointError, or Interrupted with a checkpoint.
    """
    if len(options.batches) != len(options.data):
        raise ConfigError(f"--batches has {len(options.batches)} numbers for {len(options.data)} --data")
    if options.out.suffix != SUFFIX or not options.out.parent.is_dir():
        raise ConfigError(f"--out is {options.out}; it must be NAME{SUFFIX} in a folder that exists")
    config = Config(
        epochs=options.epochs, batch_size=sum(options.batches), width=options.width, seed=options.seed,
        optimizer="adamw", lr=7e-4, weight_decay=0.05, clip_norm=2.0, label_smoothing=SMOOTHING, mix=0.1,
        ema=0.999, augment="strong", weight_init="kaiming", precision="bf16", schedule="cosine",
    )  # fmt: skip
    torch.backends.cudnn.benchmark = True
    with catch_signals(lambda: None) as signals:
        sets = load_sets(options.data, options.device)
        mean = channel_statistics(sets[0].train.squares[::2].cpu())[0].tolist()
        model, mean = _new_model(
            config, sum(len(picture_set.classes) for picture_set in sets), mean, options.start
        )
        model.to(options.device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        settings = asdict(config) | {"data": [s.name for s in sets], "batches": options.batches}
        optimizer, path = make_optimizer(model, config), options.out.with_suffix(".checkpoint")
        progress = Progress(path, settings, model, deepcopy(model), optimizer)
        if path.is_file():
            progress.load()
            print(f"resumes after step {progress.step}")
        signals.defer()
        fit(progress, sets, options.batches, config, mean, signals)
    top1 = {s.name: round(accuracy(progress.average, s, mean, config.std), 4) for s in sets}
    provenance = {"data": "+".join(top1), "steps": progress.step, "top1": top1, "revision": revision()}
    write_safetensors(options.out, base_start(progress.average, config, mean, provenance))
    path.unlink(missing_ok=True)
    return provenance


def _new_model(
    config: Config, classes: int, mean: list[float], source: str | None
) -> tuple[AlexNet, list[float]]:
    """Initialise the network, with the convolutions of `source` if given -> it, and its mean."""
    torch.manual_seed(config.seed)
    model = AlexNet(classes, config.width, config.weight_init)
    if source is None:
        return model, mean
    start = read_start(source, 1.0)
    ours = {key: value for key, value in asdict(config).items() if key in start.shape and key != "width"}
    if ours.items() - start.shape.items() or start.shape["width"] < config.width:
        raise CheckpointError(
            f"--from {source} must be this network at the same width or wider; it is {start.shape}"
        )
    model.load_state_dict(model.state_dict() | narrowed(start.weights, model.state_dict()))
    return model, start.mean
