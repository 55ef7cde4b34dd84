"""Settings from defaults, recipes and the command line; bad values are refused by name."""

import tomllib
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import pytest

from contract.recipe import DEFAULT_RECIPE
from training.config import CHOICES, RECIPES, Config, load_config, override
from training.errors import ConfigError

SHIPPED = sorted(path.stem for path in RECIPES.glob("*.toml"))


def test_the_defaults_are_the_paper_s() -> None:
    config = Config()
    assert (config.epochs, config.batch_size, config.lr, config.weight_decay) == (90, 128, 0.01, 5e-4)
    assert (config.optimizer, config.schedule, config.augment, config.weight_init) == (
        *("sgd", "plateau", "paper", "paper"),
    )
    assert (config.width, config.image_size, config.std) == (1.0, 224, 1.0)
    assert config.recipe == DEFAULT_RECIPE
    assert load_config("paper", {}) == config


@pytest.mark.parametrize("name", SHIPPED)
def test_every_shipped_recipe_loads(name: str) -> None:
    values = tomllib.loads((RECIPES / f"{name}.toml").read_text())
    config = load_config(name, {})
    assert values
    assert {key: getattr(config, key) for key in values} == values


def test_command_line_overrides_recipe_overrides_defaults(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text('epochs = 7\nlr = 1\noptimizer = "adamw"\n')
    config = load_config(str(path), {"epochs": 3})
    assert (config.epochs, config.lr, config.optimizer) == (3, 1.0, "adamw")
    assert isinstance(config.lr, float)  # whole numbers are accepted for floats
    assert config.batch_size == 128


def test_settings_survive_toml(tmp_path: Path) -> None:
    config = override(
        Config(), {"lr": 1e-5, "weight_init": "kaiming", "epochs": 2, "width": 0.1, "seed": 11}
    )
    (tmp_path / "run.toml").write_text(config.to_toml())
    assert load_config(str(tmp_path / "run.toml"), {}) == config


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"epoch": 3}, "epoch is no setting; the settings are epochs,"),
        ({"epochs": "3"}, "epochs is '3'; it must be a whole number"),
        ({"epochs": 3.0}, "epochs is 3.0; it must be a whole number"),
        ({"epochs": True}, "epochs is True"),
        ({"lr": "fast"}, "lr is 'fast'; it must be a number"),
        ({"lr": True}, "lr is True"),
        ({"weight_init": 3}, "weight_init is 3; it must be text"),
        *(({key: 0}, f"{key} is 0") for key in ("epochs", "batch_size", "lr", "width")),
        *(({key: -1}, f"{key} is -1") for key in ("epochs", "batch_size", "lr", "width", "seed")),
        *(({key: -0.1}, f"{key} is -0.1") for key in ("weight_decay", "warmup_epochs", "clip_norm")),
        *(({key: -0.1}, f"{key} is -0.1") for key in ("label_smoothing", "mix", "ema", "val_fraction")),
        *(({key: 1.0}, f"{key} is 1.0") for key in ("label_smoothing", "mix", "ema", "val_fraction")),
        *(
            ({f.name: float("nan")}, f"{f.name} is nan")
            for f in fields(Config)
            if isinstance(f.default, float)
        ),
        ({"lr": float("inf")}, "lr is inf"),
        ({"lr": 1e-320}, "lr is 1e-320"),  # its drops by the plateau schedule would be 0
        ({"lr": 1e300}, "lr is 1e+300"),  # beyond float32
        ({"weight_decay": 10**400}, "weight_decay is 1000"),
        ({"epochs": 10**400}, "epochs is 1000"),  # beyond a float, which the schedule needs
        ({"batch_size": 10, "accumulate": 3}, "batch_size is 10; it must be a multiple of accumulate"),
        ({"width": 1.5}, "width is 1.5"),
        ({"image_size": 63}, "image_size is 63"),
        ({"image_size": 225}, "image_size is 225"),
        ({"seed": 2**32}, f"seed is {2**32}"),  # torch would ignore the higher bits
        *(({key: "none"}, f"{key} is 'none'; use {allowed[0]}") for key, allowed in CHOICES.items()),
    ],
)
def test_bad_values_are_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as refusal:
        override(Config(), values)
    assert message in str(refusal.value)


def test_all_bad_values_are_reported_at_once_by_their_typed_names(tmp_path: Path) -> None:
    """Typed options are named with --; they override the recipe, so its bad value is not reported."""
    recipe = tmp_path / "mine.toml"
    recipe.write_text('lr = "fast"\nwidth = 2\ncolour = true\nepochs = 0\n')
    typed = {"epochs": "3", "batch_size": "many", "seed": "-1", "optimizer": "sdg", "lr": "nan"}
    with pytest.raises(ConfigError) as refusal:
        load_config(str(recipe), typed)
    message = str(refusal.value).splitlines()
    assert sorted(line.split(" is ")[0] for line in message) == [
        *("--batch-size", "--lr", "--optimizer", "--seed", "colour", "width")
    ]
    assert "--batch-size is 'many'; it must be a whole number" in message
    assert "--optimizer is 'sdg'; use sgd or adamw" in message
    assert load_config(None, {"lr": "1e-3", "epochs": "3", "dropout": False}) == Config(
        lr=0.001, epochs=3, dropout=False
    )


def test_missing_and_malformed_recipes_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no recipe 'papr'; use .*paper"):
        load_config("papr", {})
    with pytest.raises(ConfigError, match="no recipe"):
        load_config(str(tmp_path / "none.toml"), {})
    (tmp_path / "bad.toml").write_text("epochs = = 3")
    with pytest.raises(ConfigError, match=r"bad\.toml"):
        load_config(str(tmp_path / "bad.toml"), {})
    (tmp_path / "table.toml").write_text("[training]\nepochs = 3")
    with pytest.raises(ConfigError, match="training is no setting"):
        load_config(str(tmp_path / "table.toml"), {})


@pytest.mark.parametrize("size", [64, 112, 200])
def test_smaller_crops_keep_the_proportions_under_another_recipe_id(size: int) -> None:
    recipe = Config(image_size=size).recipe
    assert recipe.crop == size
    assert recipe.resize / size == pytest.approx(256 / 224, rel=0.01)
    assert recipe.id != DEFAULT_RECIPE.id


def test_every_setting_has_help() -> None:
    assert all(field.metadata["help"] for field in fields(Config))
    assert set(CHOICES) <= set(asdict(Config()))
