"""Pictures of a training run without a plotting library: curves as SVG, kernels as PNG."""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

import numpy as np
from PIL import Image
from torch import Tensor

WIDTH, HEIGHT = 640, 300  # without the legend, a line for each curve below
LEFT, RIGHT, TOP, BOTTOM = 60, 20, 20, 30  # margins
KERNELS_A_ROW = 12  # as in the paper's Figure 3


@dataclass(frozen=True)
class Line:
    label: str
    colour: str
    points: Sequence[tuple[float, float]]


def line_chart(lines: Sequence[Line], below: str, top: float, percent: bool) -> str:
    """An SVG with x from 0 to the last point and y from 0 to `top`, `below` the name of the x axis."""
    last = max((x for line in lines for x, _y in line.points), default=1)

    def at(x: float, y: float) -> str:
        across = LEFT + x / last * (WIDTH - LEFT - RIGHT)
        return f"{across:.1f},{TOP + (1 - min(y, top) / top) * (HEIGHT - TOP - BOTTOM):.1f}"

    parts = []
    for quarter in range(5):
        y = top * quarter / 4
        parts.append(f'<path d="M{at(0, y)} L{at(last, y)}" stroke="#8888" fill="none"/>')
        height = at(0, y).split(",")[1]
        words = f"{y:.0%}" if percent else f"{y:.3g}"
        parts.append(f'<text x="{LEFT - 8}" y="{height}" text-anchor="end" dy="4">{words}</text>')
    for row, line in enumerate(lines):
        points = " ".join(at(x, y) for x, y in line.points)
        parts.append(f'<polyline points="{points}" fill="none" stroke="{line.colour}" stroke-width="2"/>')
        y = HEIGHT + 10 + 20 * row
        parts.append(f'<text x="{LEFT}" y="{y}" fill="{line.colour}">{escape(line.label)}</text>')
    words = f"{escape(below)} 0 to {last:g}"
    parts.append(f'<text x="{WIDTH - RIGHT}" y="{HEIGHT - 12}" text-anchor="end">{words}</text>')
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT + 20 * len(lines)}" '
        f'font-family="sans-serif" font-size="13" fill="#888">\n' + "\n".join(parts) + "\n</svg>\n"
    )


def kernels_picture(weight: Tensor, scale: int = 4) -> Image.Image:
    """conv1's weights (N, 3, 11, 11) as in Figure 3: each kernel stretched to the whole range by itself,
    12 in a row, in the order of the channels.
    """
    kernels = weight.detach().cpu().numpy().transpose(0, 2, 3, 1)
    low, high = (f(kernels, axis=(1, 2, 3), keepdims=True) for f in (np.min, np.max))
    levels = np.uint8(np.rint(255 * (kernels - low) / np.maximum(high - low, 1e-12)))
    count, side = len(kernels), kernels.shape[1] * scale
    rows = -(-count // KERNELS_A_ROW)
    picture = Image.new("RGB", (KERNELS_A_ROW * (side + 2) + 2, rows * (side + 2) + 2), "white")
    for index, kernel in enumerate(np.asarray(levels)):
        row, column = divmod(index, KERNELS_A_ROW)
        tile = Image.fromarray(kernel).resize((side, side), Image.Resampling.NEAREST)
        picture.paste(tile, (column * (side + 2) + 2, row * (side + 2) + 2))
    return picture


def encoded(image: Image.Image, kind: str) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind)
    return buffer.getvalue()
