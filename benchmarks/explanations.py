"""Measure how faithful heat maps are, by deletion (Petsiuk et al., "RISE", 2018).

    python -m benchmarks.explanations --data FOLDER

A picture is covered cell by cell, the highest values of the map first, and the probability of the predicted
class is averaged over the steps. The sooner it falls, the more the prediction depended on the regions that
the map marks. Lower is better; a random order is the baseline.
"""

import argparse
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from benchmarks.limit import crop_of
from benchmarks.support.images import find_photographs
from contract.limits import usable_cores
from contract.preprocess import Pixels
from service.inference.occlusion import GRID, occluded_copies, occlusion_map
from service.models.session import Model, load_model

CELLS, STEPS = 14, 14  # cells per side, and steps in which they are covered

Map = NDArray[np.float32]
Method = Callable[[Model, Pixels, int], Map]


def probabilities(model: Model, crops: Pixels, label: int) -> NDArray[np.float32]:
    batches = (crops[start : start + 16] for start in range(0, len(crops), 16))
    return np.concatenate([model.run([batch])["probabilities"][:, label] for batch in batches])


def conv5(model: Model, crop: Pixels) -> Map:
    values: Map = model.run([crop[None]], ["conv5"])["conv5"][0]
    return values  # (C, 13, 13)


def random(_model: Model, crop: Pixels, _label: int) -> Map:
    return np.random.default_rng(int(crop.sum())).random((CELLS, CELLS)).astype(np.float32)


def occlusion(model: Model, crop: Pixels, label: int) -> Map:
    (whole,) = probabilities(model, crop[None], label)
    return occlusion_map(
        float(whole), probabilities(model, occluded_copies(crop, model.manifest.mean), label)
    )


def energy(model: Model, crop: Pixels, _label: int) -> Map:
    return np.asarray(np.square(conv5(model, crop)).sum(axis=0), np.float32)


def eigen(model: Model, crop: Pixels, _label: int) -> Map:
    """Return the first principal component of conv5 (Muhammad and Yeasin, "Eigen-CAM", 2020)."""
    values = conv5(model, crop)
    _u, _s, components = np.linalg.svd(values.reshape(len(values), -1), full_matrices=False)
    return np.asarray(np.abs(components[0]).reshape(13, 13), np.float32)


def score(model: Model, crop: Pixels, label: int) -> Map:
    """Sum the 16 strongest channels of conv5, weighted by the probability that each leaves.

    The probability is that of the picture with only the region of the channel visible (Wang et al.,
    "Score-CAM", 2020).
    """
    values = conv5(model, crop)
    strongest = values[np.argsort(-values.max(axis=(1, 2)))[:16]]
    mean = np.array(model.manifest.mean)
    masked = []
    for channel in strongest:
        mask = resized(channel / max(float(channel.max()), 1e-6), len(crop))[..., None]
        masked.append(np.rint(crop * mask + mean * (1 - mask)).astype(np.uint8))
    weights = probabilities(model, np.stack(masked), label)
    return np.asarray((weights[:, None, None] * strongest).sum(axis=0))


METHODS: dict[str, tuple[Method, int]] = {  # with the number of forward passes per picture
    "random": (random, 0),
    "occlusion": (occlusion, GRID * GRID),
    "conv5, energy": (energy, 1),
    "conv5, Eigen-CAM": (eigen, 1),
    "conv5, Score-CAM of 16 channels": (score, 17),
}


def resized(values: Map, size: int) -> Map:
    picture = Image.fromarray(np.asarray(values, np.float32))
    return np.asarray(picture.resize((size, size), Image.Resampling.BILINEAR)).clip(0, None)


def deletion(model: Model, crop: Pixels, label: int, ranking: Map) -> float:
    """Return the mean probability of the label while cells are covered, the highest-ranked first."""
    side = len(crop) // CELLS
    order = np.argsort(-resized(ranking, CELLS).ravel(), kind="stable")
    copies, picture = [crop], crop.copy()
    for cells in np.array_split(order, STEPS):
        for cell in cells:
            y, x = divmod(int(cell), CELLS)
            picture[y * side : (y + 1) * side, x * side : (x + 1) * side] = np.rint(model.manifest.mean)
        copies.append(picture.copy())
    return float(probabilities(model, np.stack(copies), label).mean())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", type=Path, default=Path("models/flowers17.onnx"))
    parser.add_argument("--data", type=Path, required=True, help="folder of photographs")
    parser.add_argument("--images", type=int, default=85, help="number of photographs (default 85)")
    args = parser.parse_args()
    model = load_model(args.model, "cpu", usable_cores())
    areas: dict[str, list[float]] = {name: [] for name in METHODS}
    for file in find_photographs(args.data, args.images):
        (crop,) = crop_of(file.read_bytes(), model)
        label = int(model.run([crop[None]])["probabilities"].argmax())
        for name, (method, _passes) in METHODS.items():
            areas[name].append(deletion(model, crop, label, method(model, crop, label)))
    print(f"{len(areas['random'])} photographs\n{'':34}passes  deletion, lower is better  beats random")
    for name, (_method, passes) in METHODS.items():
        wins = np.mean(np.array(areas[name]) < np.array(areas["random"]))
        print(f"{name:34}{passes:6}{np.mean(areas[name]):10.3f} +- {np.std(areas[name]):.3f}{wins:18.0%}")


if __name__ == "__main__":
    main()
