"""Draw flowers that `models/flowers17.onnx` classifies: pictures free of copyright."""

import math
import random
from dataclasses import dataclass
from typing import Final

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

Colour = tuple[int, int, int]
SIZE: Final = (600, 520)  # pixels
SUPERSAMPLING: Final = 2  # drawn larger by this factor, then scaled down for smooth edges
MEADOW: Final = ((52, 78, 44), (74, 104, 58), (96, 122, 74), (40, 60, 40))
SHADE: Final = ((30, 36, 30), (50, 62, 44), (24, 30, 26))


@dataclass(frozen=True)
class Flower:
    """How a flower is drawn; lengths are fractions of the picture's height."""

    petals: int
    colour: Colour
    heart: Colour
    inner: float
    outer: float
    width: float
    rows: int = 2
    dots: int = 100
    ground: tuple[Colour, ...] = MEADOW


FLOWERS: Final = {
    "sunflower": Flower(17, (250, 200, 20), (96, 60, 26), 0.2, 0.46, 0.07, dots=600),
    "daisy": Flower(15, (250, 250, 245), (236, 186, 30), 0.1, 0.42, 0.05, dots=250),
    "dandelion": Flower(40, (250, 215, 30), (240, 190, 20), 0.14, 0.36, 0.02, rows=3, dots=300),
    "bluebell": Flower(5, (90, 90, 210), (120, 120, 230), 0.05, 0.4, 0.09, dots=30),
    "violet": Flower(7, (150, 130, 220), (235, 225, 140), 0.07, 0.42, 0.11, dots=80, ground=SHADE),
    "red": Flower(3, (215, 40, 60), (190, 30, 50), 0.12, 0.4, 0.16, dots=10),
}


def draw(name: str) -> Image.Image:
    flower, rng = FLOWERS[name], random.Random(name)
    width, height = SIZE[0] * SUPERSAMPLING, SIZE[1] * SUPERSAMPLING
    image = _meadow(flower.ground, rng, (width, height))
    pen = ImageDraw.Draw(image)
    x, y = width / 2, height * 0.48
    pen.line([(x, y), (x + height * 0.03, height)], fill=(70, 110, 50), width=round(height * 0.035))
    for row in range(flower.rows):
        for number in range(flower.petals):
            angle = 2 * math.pi * (number + row / 2) / flower.petals + rng.uniform(-0.07, 0.07)
            shade = rng.uniform(0.86, 1) * (1 if row == flower.rows - 1 else 0.9)
            length = height * flower.outer * rng.uniform(0.9, 1.04) * (0.93 if row else 1)
            colour = _times(flower.colour, shade)
            _petal(pen, (x, y), angle, length, height * flower.width, colour)
    radius = height * flower.inner
    pen.circle((x, y), radius, fill=flower.heart)
    for number in range(flower.dots):  # placed like seeds, by the golden angle
        angle, away = number * 2.39996, radius * 0.97 * math.sqrt(number / flower.dots)
        colour = _times(flower.heart, rng.uniform(0.62, 1.17))
        pen.circle((x + away * math.cos(angle), y + away * math.sin(angle)), height * 0.006, fill=colour)
    return image.resize(SIZE, Image.Resampling.LANCZOS)


def _meadow(tones: tuple[Colour, ...], rng: random.Random, size: tuple[int, int]) -> Image.Image:
    coarse = [[_times(rng.choice(tones), rng.uniform(0.75, 1.25)) for _ in range(8)] for _ in range(7)]
    image = Image.fromarray(np.array(coarse, dtype=np.uint8)).resize(size, Image.Resampling.BICUBIC)
    return image.filter(ImageFilter.GaussianBlur(size[0] / 40))


def _petal(
    pen: ImageDraw.ImageDraw,
    centre: tuple[float, float],
    angle: float,
    length: float,
    width: float,
    colour: Colour,
) -> None:
    """Draw a leaf shape with a vein, from the centre outwards."""

    def at(share: float, aside: float) -> tuple[float, float]:
        along, across = length * share, width * aside
        return (
            centre[0] + along * math.cos(angle) - across * math.sin(angle),
            centre[1] + along * math.sin(angle) + across * math.cos(angle),
        )

    steps = [step / 24 for step in range(25)]
    bulge = [math.sin(math.pi * (0.1 + 0.88 * step)) ** 0.8 for step in steps]
    left = [at(step, aside) for step, aside in zip(steps, bulge, strict=True)]
    right = [at(step, -aside) for step, aside in zip(steps, bulge, strict=True)]
    pen.polygon([*left, *reversed(right)], fill=colour)
    pen.line([at(0.3, 0), at(0.9, 0)], fill=_times(colour, 0.86), width=2 * SUPERSAMPLING)


def _times(colour: Colour, factor: float) -> Colour:
    red, green, blue = (min(255, round(value * factor)) for value in colour)
    return red, green, blue
