"""Write the part of a run's page about trust: calibration, prediction sets, unfamiliar pictures."""

from collections.abc import Mapping
from html import escape
from typing import Final

from contract.trust import Trust
from training.export.graph import Array
from training.export.trust_text import trust_lines
from training.report.plots import Line, bar_chart, line_chart
from training.trust.calibration import Bin, reliability
from training.trust.fit import Results

BINS: Final = 20  # of the histogram
COLOURS: Final = ("#d9772a", "#3a9a5b", "#a05fc4", "#c0504d")  # of unfamiliar folders
BLUE, ORANGE, GREY = "#4a90d9", "#d9772a", "#888"


def trust_part(trust: Trust, results: Results, unfamiliar: Mapping[str, Array]) -> str:
    """Format the section: a reliability diagram, a histogram of unfamiliarity, and every figure."""
    charts = [_reliability_diagram(results)]
    if results.unfamiliarity is not None:
        lines = [Line("held-out photographs", BLUE, [(float(x), 1.0) for x in results.unfamiliarity])]
        for number, (name, values) in enumerate(unfamiliar.items()):
            colour = COLOURS[number % len(COLOURS)]
            lines.append(Line(name, colour, [(float(x), 1.0) for x in values]))
        charts.append(bar_chart(lines, "unfamiliarity", BINS))
    rows = "".join(f"<li>{escape(line)}" for line in trust_lines(trust))
    return (
        "<h2>What its answers are worth</h2><p>Left: of photographs that got about this probability, the "
        "share that was right; on the diagonal, probabilities are what they say. Right: how unfamiliar "
        "photographs are to the network, and pictures of other things.</p>"
        f'<div class="curves">{"".join(f"<div>{chart}</div>" for chart in charts)}</div><ul>{rows}</ul>'
    )


def _reliability_diagram(results: Results) -> str:
    def points(bins: list[Bin]) -> list[tuple[float, float]]:
        return [(b.probability, b.accuracy) for b in bins]

    lines = [
        Line("exactly calibrated", GREY, [(0.0, 0.0), (1.0, 1.0)]),
        Line(
            "accuracy by probability, before", ORANGE, points(reliability(results.before, results.labels))
        ),
        Line(
            "accuracy by probability, with the temperature",
            BLUE,
            points(reliability(results.probabilities, results.labels)),
        ),
    ]
    return line_chart(lines, "probability", 1, percent=True)
