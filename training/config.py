"""What a training run can be told: defaults are the paper's, recipes and the command line override."""

import json
import math
import tomllib
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Final

from contract.recipe import DEFAULT_RECIPE, Recipe
from training.model import ACTIVATIONS, ARCHS, POOL_WINDOWS, Variant

RECIPES: Final = Path(__file__).parent / "recipes"
CHOICES: Final = {
    "arch": tuple(ARCHS),
    "activation": ACTIVATIONS,
    "pooling": tuple(POOL_WINDOWS),
    "weight_init": ("paper", "kaiming"),
    "augment": ("paper", "strong"),
    "optimizer": ("sgd", "adamw"),
    "schedule": ("plateau", "cosine"),
    "precision": ("fp32", "bf16", "fp16"),
}


class ConfigError(ValueError):
    """An unknown key, or a value outside its range; the message names it."""


def _of(default: Any, meaning: str) -> Any:
    return field(default=default, metadata={"help": meaning})


@dataclass(frozen=True)
class Config:
    """The paper, section 5, where nothing else is said."""

    epochs: int = _of(90, "passes over the training images")
    batch_size: int = _of(128, "images per step")
    lr: float = _of(0.01, "learning rate at the start")
    optimizer: str = _of("sgd", "sgd (momentum 0.9, as in the paper) or adamw")
    schedule: str = _of(
        "plateau", "plateau: a tenth when validation stops improving, three times; or cosine to 0"
    )
    warmup_epochs: float = _of(0.0, "epochs of linear warm-up, cosine only")
    weight_decay: float = _of(5e-4, "of all parameters with sgd, of weights alone with adamw")
    clip_norm: float = _of(0.0, "largest norm of the gradient; 0: not clipped")
    label_smoothing: float = _of(0.0, "share of the target spread over all classes")
    mix: float = _of(0.0, "share of the steps on mixed images (CutMix and mixup)")
    ema: float = _of(0.0, "decay per step of an average of the weights that is used instead; 0: none")
    augment: str = _of("paper", "paper: crop, mirror, PCA colour; strong: zoom, rotation, jitter")
    crops: bool = _of(True, "random crops and mirroring in the paper's augmentation; else the centre")
    pca: bool = _of(True, "PCA colour in the paper's augmentation")
    image_size: int = _of(224, "side of the crop, pixels; less is for pre-training and cannot be served")
    width: float = _of(1.0, "factor on the kernels and hidden units of every layer, above 0 to 1")
    arch: str = _of(
        "paper", "paper: two groups; one-tower: none; torchvision: none, other kernels, and never LRN"
    )
    activation: str = _of("relu", "relu or tanh, after every layer but the last")
    lrn: bool = _of(True, "local response normalisation after conv1 and conv2")
    pooling: str = _of("overlapping", "overlapping: windows of 3 at a stride of 2; plain: of 2")
    dropout: bool = _of(True, "half of the units of two layers dropped in training")
    weight_init: str = _of("paper", "paper: N(0, 0.01), biases 0 and 1, raw pixels; kaiming: pixels / 58")
    precision: str = _of("fp32", "fp32; bf16 or fp16 by autocast, normalisation and loss in fp32")
    accumulate: int = _of(1, "pieces of a batch whose gradients are added up, where all is too much memory")
    compile: bool = _of(False, "torch.compile: a minute at the start, then faster steps on a GPU")
    val_fraction: float = _of(0.2, "share of each class to validate on, where DATA has no train/")
    seed: int = _of(0, "of everything drawn at random")

    def __post_init__(self) -> None:
        for key, allowed in CHOICES.items():
            if getattr(self, key) not in allowed:
                raise ConfigError(f"{key} is {getattr(self, key)!r}; use {' or '.join(allowed)}")
        for key in ("epochs", "batch_size", "lr", "accumulate"):
            if not 0 < getattr(self, key) < math.inf:
                raise ConfigError(f"{key} is {getattr(self, key)}; it must be above 0")
        for key in ("warmup_epochs", "weight_decay", "clip_norm"):
            if not 0 <= getattr(self, key) < math.inf:
                raise ConfigError(f"{key} is {getattr(self, key)}; it must be 0 or more")
        for key in ("label_smoothing", "mix", "ema", "val_fraction"):
            if not 0 <= getattr(self, key) < 1:
                raise ConfigError(f"{key} is {getattr(self, key)}; it must be 0 to below 1")
        if not 0 < self.width <= 1:
            raise ConfigError(f"width is {self.width}; it must be above 0 and at most 1")
        if not 64 <= self.image_size <= 224:
            raise ConfigError(f"image_size is {self.image_size}; it must be 64 to 224")
        if not 0 <= self.seed < 2**32:
            raise ConfigError(f"seed is {self.seed}; it must be 0 to {2**32 - 1}")

    @property
    def recipe(self) -> Recipe:
        """The one that is served; below 224 pixels one of the same proportions, for training alone."""
        if self.image_size == DEFAULT_RECIPE.crop:
            return DEFAULT_RECIPE
        resize = DEFAULT_RECIPE.resize * self.image_size // DEFAULT_RECIPE.crop
        return replace(DEFAULT_RECIPE, id="for training alone", resize=resize, crop=self.image_size)

    @property
    def variant(self) -> Variant:
        return Variant(self.arch, self.activation, self.lrn, self.pooling, self.dropout)

    @property
    def std(self) -> float:
        """What the pixels, mean subtracted, are divided by: the paper takes them raw."""
        return 1.0 if self.weight_init == "paper" else 58.0

    def to_toml(self) -> str:
        # JSON's strings, numbers and booleans, for the values that can be, are TOML's too.
        lines = (f"{key} = {json.dumps(value)}" for key, value in asdict(self).items())
        return "\n".join(lines) + "\n"


def load_config(recipe: str | None, overrides: dict[str, Any]) -> Config:
    """The defaults, then a recipe (a name in training/recipes or a TOML file), then `overrides`."""
    config = Config()
    if recipe is not None:
        path = Path(recipe) if recipe.endswith(".toml") else RECIPES / f"{recipe}.toml"
        try:
            values = tomllib.loads(path.read_text())
        except OSError:
            known = ", ".join(sorted(p.stem for p in RECIPES.glob("*.toml")))
            raise ConfigError(f"no recipe {recipe!r}; use {known}, or a file .toml") from None
        except tomllib.TOMLDecodeError as error:
            raise ConfigError(f"{path}: {error}") from None
        config = override(config, values)
    return override(config, overrides)


def override(config: Config, values: dict[str, Any]) -> Config:
    types: dict[str, type] = {f.name: type(f.default) for f in fields(Config)}
    typed: dict[str, Any] = {}
    for key, value in values.items():
        if key not in types:
            raise ConfigError(f"unknown key {key!r}; known: {', '.join(types)}")
        if types[key] is float and type(value) is int:
            value = float(value)
        if type(value) is not types[key]:
            raise ConfigError(f"{key} is {value!r}; it must be of type {types[key].__name__}")
        typed[key] = value
    return replace(config, **typed)
