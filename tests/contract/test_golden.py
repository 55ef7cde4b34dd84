"""Test that the pixels of each preprocessing id have not changed since the id was introduced.

The parity tests compare with the installed Pillow; these compare with recorded values, for formats whose
decoding is bit-stable. Record them again with: python -m tests.contract.test_golden
"""

import json
from pathlib import Path

import numpy as np
import pytest

from contract.picture import decode
from contract.preprocess import centre_crop
from contract.recipe import RECIPES, Recipe
from tests.support.drawing.samples import samples

GOLDEN = Path(__file__).with_name("golden.json")
COMMAND = "python -m tests.contract.test_golden"
TOLERANCE = 0.5  # levels of 255, on the mean of a 56 x 56 square: rounding may differ between builds
STABLE = [name for name in samples() if name.split("-")[0] in {"png", "bmp", "gif", "tiff"}]


def summary(data: bytes, recipe: Recipe) -> list[list[float]]:
    """Return the mean of each channel in each square of a 4 x 4 grid over the crop, row by row."""
    crop = centre_crop(decode(data, recipe, 10**6), recipe).astype(float)
    side = recipe.crop // 4
    means = crop.reshape(4, side, 4, side, 3).mean((1, 3))
    return [[round(float(v), 2) for v in square] for square in means.reshape(16, 3)]


def record() -> dict[str, dict[str, list[list[float]]]]:
    return {
        recipe.id: {name: summary(samples()[name].data, recipe) for name in STABLE}
        for recipe in RECIPES.values()
    }


def test_every_sample_and_preprocessing_id_has_golden_values() -> None:
    golden = json.loads(GOLDEN.read_text())
    assert {id_: sorted(values) for id_, values in golden.items()} == {
        id_: sorted(STABLE) for id_ in RECIPES
    }, f"if a mode or an id is new, run {COMMAND}"


@pytest.mark.parametrize("name", STABLE)
@pytest.mark.parametrize("recipe", RECIPES)
def test_crop_matches_its_golden_values(recipe: str, name: str) -> None:
    golden = np.array(json.loads(GOLDEN.read_text())[recipe][name])
    drift = np.abs(np.array(summary(samples()[name].data, RECIPES[recipe])) - golden).max()
    assert drift <= TOLERANCE, (
        f"{name} moved by {drift:.2f} levels under {recipe}: models with that id would get other pixels. "
        f"Give the change a new id; only if the golden values were wrong, run {COMMAND}"
    )


if __name__ == "__main__":
    lines = [
        f' "{id_}": {{\n'
        + ",\n".join(
            f'  "{name}": {json.dumps(values, separators=(",", ":"))}' for name, values in v.items()
        )
        + "\n }"
        for id_, v in record().items()
    ]
    GOLDEN.write_text("{\n" + ",\n".join(lines) + "\n}\n")
    print(f"wrote {GOLDEN}: look at the differences before you commit them")
