"""The settings of a training run: the paper's defaults, overridden by recipes and the command line."""

import json
import tomllib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Final

from contract.recipe import DEFAULT_RECIPE, Recipe
from training.errors import ConfigError
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


MAX_COUNT: Final = 10**9  # of epochs or images; products of larger counts overflow
MIN_RATE: Final = 1e-30  # the plateau schedule's drops of a smaller rate underflow to 0
MAX_RATE: Final = 1e6
_KINDS: Final = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}


def _of(default: Any, meaning: str) -> Any:
    return field(default=default, metadata={"help": meaning})


@dataclass(frozen=True)
class Config:
    """The settings of a run; the defaults are those of the paper, section 5.

    Raises ConfigError with a line for each value out of range.
    """

    epochs: int = _of(90, "passes over the training images")
    batch_size: int = _of(128, "images per step")
    lr: float = _of(0.01, "learning rate at the start")
    conv_lr: float = _of(1.0, "factor on the convolutions' learning rate; 0 freezes them")
    optimizer: str = _of("sgd", "sgd (momentum 0.9, as in the paper) or adamw")
    schedule: str = _of(
        "plateau", "plateau: divided by 10 when validation stops improving, three times; cosine: falls to 0"
    )
    warmup_epochs: float = _of(0.0, "epochs of linear warm-up, with cosine only")
    weight_decay: float = _of(5e-4, "on all parameters with sgd, on weights only with adamw")
    clip_norm: float = _of(0.0, "maximum norm of the gradient; 0: no clipping")
    label_smoothing: float = _of(0.0, "share of each target that is spread over all classes")
    mix: float = _of(0.0, "share of the steps with mixed images (CutMix or mixup)")
    ema: float = _of(
        0.0, "decay per step of the running average of the weights, which is then the result; 0: none"
    )
    augment: str = _of("paper", "paper: crop, mirror, PCA colour; strong: zoom, rotation, colour jitter")
    crops: bool = _of(True, "random crops and mirroring in the paper's augmentation; off: the centre")
    pca: bool = _of(True, "PCA colour in the paper's augmentation")
    image_size: int = _of(
        224, "side of the crop in pixels; below 224 is for pre-training and cannot be served"
    )
    width: float = _of(1.0, "factor on the kernels and hidden units of every layer, above 0 to 1")
    arch: str = _of(
        "paper",
        "paper: two groups; one-tower: no groups; torchvision: no groups, other kernel counts, no LRN",
    )
    activation: str = _of("relu", "relu or tanh, after every layer but the last")
    lrn: bool = _of(True, "local response normalisation after conv1 and conv2")
    pooling: str = _of("overlapping", "overlapping: windows of 3 at a stride of 2; plain: windows of 2")
    dropout: bool = _of(True, "drop half of the units of two layers in training")
    weight_init: str = _of("paper", "paper: N(0, 0.01), biases 0 and 1, raw pixels; kaiming: pixels / 58")
    precision: str = _of(
        "fp32", "fp32, on GPUs without TF32; bf16 or fp16 use autocast, with normalisation and loss in fp32"
    )
    accumulate: int = _of(
        1, "split each batch into so many pieces and add up their gradients, to save memory"
    )
    compile: bool = _of(False, "use torch.compile: a minute at the start, then faster steps on a GPU")
    val_fraction: float = _of(
        0.2, "share of each class to hold out for validation, where DATA has no train/"
    )
    seed: int = _of(0, "seed of all random draws")

    def __post_init__(self) -> None:
        if problems := [f"{key} is {value}" for key, value in _bad_values(asdict(self)).items()]:
            raise ConfigError("\n".join(problems))

    @property
    def recipe(self) -> Recipe:
        """The preprocessing: the served recipe, or below 224 pixels a training-only one in proportion."""
        if self.image_size == DEFAULT_RECIPE.crop:
            return DEFAULT_RECIPE
        resize = DEFAULT_RECIPE.resize * self.image_size // DEFAULT_RECIPE.crop
        return replace(DEFAULT_RECIPE, id="for training alone", resize=resize, crop=self.image_size)

    @property
    def variant(self) -> Variant:
        """The variant of the network that these settings name."""
        return Variant(self.arch, self.activation, self.lrn, self.pooling, self.dropout)

    @property
    def std(self) -> float:
        """The divisor of the pixels after the mean is subtracted; 1 with the paper's initialisation."""
        return 1.0 if self.weight_init == "paper" else 58.0

    def to_toml(self) -> str:
        """Write all settings as TOML, to be read by `load_config`."""
        # The settings' strings, numbers and booleans look the same in JSON and TOML.
        lines = (f"{key} = {json.dumps(value)}" for key, value in asdict(self).items())
        return "\n".join(lines) + "\n"


def load_config(recipe: str | None, options: Mapping[str, Any]) -> Config:
    """Combine the defaults, a recipe (a name in training/recipes or a TOML file), and `options`.

    Later ones override earlier ones. Raises ConfigError with a line for each bad value.
    """
    return configure(recipe_values(recipe), options)


def recipe_values(recipe: str | None) -> dict[str, Any]:
    """Read the settings of a recipe; None has none. Raises ConfigError if it is missing or not TOML."""
    if recipe is None:
        return {}
    path = Path(recipe) if recipe.endswith(".toml") else RECIPES / f"{recipe}.toml"
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError:
        known = ", ".join(sorted(p.stem for p in RECIPES.glob("*.toml")))
        raise ConfigError(f"no recipe {recipe!r}; use {known}, or a .toml file") from None
    except ValueError as error:  # not TOML, or not UTF-8
        raise ConfigError(f"{path}: {error}") from None


def configure(values: Mapping[str, Any], options: Mapping[str, Any] | None = None) -> Config:
    """Override the defaults with `values`, and those with `options` from the command line.

    The values of `options` may be text, and messages name them as they are typed: --batch-size.
    Raises ConfigError with a line for each bad value.
    """
    options, problems = options or {}, []
    typed: dict[str, Any] = {}
    for key, value in {**values, **options}.items():
        try:
            typed[key] = _typed(key, value, from_text=key in options)
        except ConfigError as error:
            problems.append((key, str(error)))
    problems += [(key, f"is {problem}") for key, problem in _bad_values({**_DEFAULTS, **typed}).items()]
    if problems:
        names = {key: option_name(key) if key in options else key for key, _problem in problems}
        raise ConfigError("\n".join(f"{names[key]} {problem}" for key, problem in problems))
    return Config(**typed)


def override(config: Config, values: Mapping[str, Any]) -> Config:
    """Replace settings of `config`, with checks. Raises ConfigError with a line for each bad value."""
    return configure({**asdict(config), **values})


def option_name(key: str) -> str:
    """Return a setting's command-line option: batch_size -> --batch-size."""
    return f"--{key.replace('_', '-')}"


def _typed(key: str, value: Any, from_text: bool) -> Any:
    """Convert `value` to the type of the setting `key`.

    Raises ConfigError with a message to put after the setting's name.
    """
    if key not in _DEFAULTS:
        raise ConfigError(f"is no setting; the settings are {', '.join(_DEFAULTS)}")
    kind = type(_DEFAULTS[key])
    try:
        if (from_text and isinstance(value, str)) or (kind is float and type(value) is int):
            value = kind(value)
    except (ValueError, OverflowError):
        raise ConfigError(f"is {shortened(value)}; it must be {_KINDS[kind]}") from None
    if type(value) is not kind:
        raise ConfigError(f"is {shortened(value)}; it must be {_KINDS[kind]}")
    return value


def shortened(value: Any) -> str:
    """Return the repr of `value`, cut to 60 characters, for messages."""
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _bad_values(values: Mapping[str, Any]) -> dict[str, str]:
    """Find the settings that are out of range -> name: "value; what it must be"."""
    bad: dict[str, str] = {}

    def demand(key: str, holds: bool, must: str) -> None:
        if not holds:
            bad[key] = f"{shortened(values[key])}; {must}"

    for key, allowed in CHOICES.items():
        demand(key, values[key] in allowed, f"use {' or '.join(allowed)}")
    for key in ("epochs", "batch_size", "accumulate"):
        demand(key, 0 < values[key] <= MAX_COUNT, f"it must be above 0 and at most {MAX_COUNT}")
    demand("lr", MIN_RATE <= values["lr"] <= MAX_RATE, f"it must be above 0, {MIN_RATE} to {MAX_RATE:g}")
    for key in ("warmup_epochs", "weight_decay", "clip_norm"):
        demand(key, 0 <= values[key] <= MAX_RATE, f"it must be 0 or more, at most {MAX_RATE:g}")
    for key in ("label_smoothing", "mix", "ema", "val_fraction"):
        demand(key, 0 <= values[key] < 1, "it must be 0 to below 1")
    demand("conv_lr", 0 <= values["conv_lr"] <= 1, "it must be 0 to 1")
    demand("width", 0 < values["width"] <= 1, "it must be above 0 and at most 1")
    demand("image_size", 64 <= values["image_size"] <= 224, "it must be 64 to 224")
    demand("seed", 0 <= values["seed"] < 2**32, f"it must be 0 to {2**32 - 1}")
    pieces = max(1, values["accumulate"])
    if not {"batch_size", "accumulate"} & bad.keys() and values["batch_size"] % pieces:
        bad["batch_size"] = f"{values['batch_size']}; it must be a multiple of accumulate, {pieces}"
    return bad


_DEFAULTS: Final[dict[str, Any]] = {f.name: f.default for f in fields(Config)}
