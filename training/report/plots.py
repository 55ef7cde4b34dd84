"""Draw curves as SVG, without a plotting library."""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from PIL import Image

WIDTH, HEIGHT = 640, 300  # pixels, without the legend below, one line per curve
LEFT, RIGHT, TOP, BOTTOM = 60, 20, 20, 30  # margins


@dataclass(frozen=True)
class Line:
    """A curve: its label, its CSS colour, and its points (x, y)."""

    label: str
    colour: str
    points: Sequence[tuple[float, float]]


def line_chart(lines: Sequence[Line], below: str, top: float, percent: bool) -> str:
    """Draw curves as SVG, x from 0 to the last point, y from 0 to `top`; `below` names the x axis."""
    last = max((x for line in lines for x, _y in line.points), default=1)

    def at(x: float, y: float) -> str:
        across = LEFT + x / last * (WIDTH - LEFT - RIGHT)
        return f"{across:.1f},{TOP + (1 - min(y, top) / top) * (HEIGHT - TOP - BOTTOM):.1f}"

    parts = []
    for quarter in range(5):
        y = top * quarter / 4
        parts.append(f'<path d="M{at(0, y)} L{at(last, y)}" stroke="#8888" fill="none"/>')
        height = at(0, y).split(",")[1]
        text = f"{y:.0%}" if percent else f"{y:.3g}"
        parts.append(f'<text x="{LEFT - 8}" y="{height}" text-anchor="end" dy="4">{text}</text>')
    for row, line in enumerate(lines):
        points = " ".join(at(x, y) for x, y in line.points)
        parts.append(f'<polyline points="{points}" fill="none" stroke="{line.colour}" stroke-width="2"/>')
        y = HEIGHT + 10 + 20 * row
        parts.append(f'<text x="{LEFT}" y="{y}" fill="{line.colour}">{escape(line.label)}</text>')
    text = f"{escape(below)} 0 to {last:g}"
    parts.append(f'<text x="{WIDTH - RIGHT}" y="{HEIGHT - 12}" text-anchor="end">{text}</text>')
    return _svg(parts, len(lines))


def bar_chart(series: Sequence[Line], below: str, bins: int) -> str:
    """Draw histograms side by side as SVG: x from 0 to 1 in `bins` bins, heights as shares of each series.

    The points of a line are (x, weight).
    """
    heights = []
    for line in series:
        counts = [0.0] * bins
        for x, weight in line.points:
            counts[min(int(x * bins), bins - 1)] += weight
        total = sum(counts) or 1.0
        heights.append([count / total for count in counts])
    top = max(max(row) for row in heights) or 1.0
    parts, wide, high = [], (WIDTH - LEFT - RIGHT) / bins, HEIGHT - TOP - BOTTOM
    each = 0.8 * wide / len(series)
    for row, (line, shares) in enumerate(zip(series, heights, strict=True)):
        for place, share in enumerate(shares):
            x, tall = LEFT + place * wide + row * each, share / top * high
            parts.append(
                f'<rect x="{x:.1f}" y="{HEIGHT - BOTTOM - tall:.1f}" width="{each:.1f}" '
                f'height="{tall:.1f}" fill="{line.colour}"/>'
            )
        y = HEIGHT + 10 + 20 * row
        parts.append(f'<text x="{LEFT}" y="{y}" fill="{line.colour}">{escape(line.label)}</text>')
    parts.append(f'<text x="{LEFT - 8}" y="{TOP}" text-anchor="end" dy="4">{top:.0%}</text>')
    text = f"{escape(below)} 0 to 1"
    parts.append(f'<text x="{WIDTH - RIGHT}" y="{HEIGHT - 12}" text-anchor="end">{text}</text>')
    return _svg(parts, len(series))


def _svg(parts: Sequence[str], rows: int) -> str:
    """Frame a chart with `rows` lines of legend."""
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT + 20 * rows}" '
        f'font-family="sans-serif" font-size="13" fill="#888">\n' + "\n".join(parts) + "\n</svg>\n"
    )


def encoded(image: Image.Image, kind: str) -> bytes:
    """Encode a picture as PNG or JPEG."""
    buffer = io.BytesIO()
    image.save(buffer, kind)
    return buffer.getvalue()
