"""Fit temperature, prediction sets and the scale of unfamiliarity, and measure them on others."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from contract.interval import wilson
from contract.trust import Familiarity, Share, Trust, UnfamiliarResult
from training.trust.calibration import Floats, Labels, calibration_error, fit_temperature, softmax
from training.trust.sets import REPORTED, fit_quantiles, measure_sets

MIN_PHOTOGRAPHS: Final = 20  # held out; fewer say too little
MIN_PER_CLASS: Final = 20  # for halves
FOLDS: Final = 5
KNOTS: Final = 101
UNKNOWN_ABOVE: Final = 0.95  # so that 5 % of photographs like the held-out ones are unknown

Places = NDArray[np.int64]


@dataclass(frozen=True)
class HeldOut:
    """What a network computes for N held-out photographs: `logits` (N, classes), and `scores` (N,).

    Scores are higher for less familiar photographs; None if the graph has none. `labels` and `digests` (N,)
    identify the photographs; the digests' order decides the division.
    """

    logits: Floats
    labels: Labels
    digests: NDArray[np.int64]
    scores: Floats | None

    def part(self, places: Places) -> "HeldOut":
        """Select the photographs at `places`."""
        scores = None if self.scores is None else self.scores[places]
        return HeldOut(self.logits[places], self.labels[places], self.digests[places], scores)


@dataclass(frozen=True)
class Fit:
    """The values that go into the file; `knots` (K,) are scores at equal steps of rank."""

    temperature: float
    quantiles: dict[str, float]
    knots: Floats | None


@dataclass(frozen=True)
class Results:
    """What the photographs that a fit left out got from it, in the order of `labels` (N,)."""

    labels: Labels
    before: Floats  # probabilities (N, classes) at temperature 1
    probabilities: Floats
    quantiles: dict[str, Floats]  # (N, 1)
    unfamiliarity: Floats | None  # (N,)


def fit(photographs: HeldOut) -> Fit:
    """Fit all values to the photographs."""
    temperature = fit_temperature(photographs.logits, photographs.labels)
    quantiles = fit_quantiles(softmax(photographs.logits, temperature), photographs.labels)
    scores = photographs.scores
    knots = None if scores is None else np.quantile(scores, np.linspace(0, 1, KNOTS))
    return Fit(temperature, quantiles, knots)


def fit_and_measure(photographs: HeldOut) -> tuple[str, Fit, Results]:
    """Fit to photographs and measure on those left out -> the method, the fit for the file, the results.

    With MIN_PER_CLASS photographs of each class one half is for the fit, the other to measure. With fewer,
    each fifth is measured with a fit to the others, and the file gets a fit to all.
    """
    counts = np.bincount(photographs.labels, minlength=photographs.logits.shape[1])
    if counts.min() >= MIN_PER_CLASS:
        first, second = _divide(photographs, 2)
        fitted = fit(photographs.part(first))
        return "halves", fitted, _apply(fitted, photographs.part(second))
    parts = []
    for places in _divide(photographs, FOLDS):
        others = np.setdiff1d(np.arange(len(photographs.labels)), places)
        parts.append(_apply(fit(photographs.part(others)), photographs.part(places)))
    return "cross-fitting", fit(photographs), _joined(parts)


def trust_of(
    count: int,
    method: str,
    fitted: Fit,
    results: Results,
    references: int = 0,
    background: int = 0,
    unknown_above: float = UNKNOWN_ABOVE,
    unfamiliar: Sequence[UnfamiliarResult] = (),
) -> Trust:
    """Make the manifest's section from a fit to `count` photographs and its measurement."""
    familiarity = None
    if results.unfamiliarity is not None:
        known = float((results.unfamiliarity <= unknown_above).mean())
        share = Share(known, *wilson(known, len(results.labels)))
        familiarity = Familiarity(unknown_above, share, references, background, tuple(unfamiliar))
    return Trust(
        photographs=count,
        method=method,
        temperature=fitted.temperature,
        ece_before=calibration_error(results.before, results.labels),
        ece=calibration_error(results.probabilities, results.labels),
        quantiles=fitted.quantiles,
        sets=measure_sets(results.probabilities, results.labels, results.quantiles),
        familiarity=familiarity,
    )


def compare_unfamiliar(
    data: str, probabilities: Floats, unfamiliarity: Floats, familiar: Floats, unknown_above: float
) -> UnfamiliarResult:
    """Compare pictures of none of the classes with held-out photographs.

    `probabilities` (M, classes) and `unfamiliarity` (M,) are the pictures', `familiar` (N,) is the
    unfamiliarity of the photographs.
    """
    known = unfamiliarity <= unknown_above
    return UnfamiliarResult(
        data=data,
        images=len(unfamiliarity),
        auroc=auroc(familiar, unfamiliarity),
        fpr95=float((unfamiliarity <= np.quantile(familiar, 0.95)).mean()),
        known_and_probable=float((known & (probabilities.max(1) > 0.5)).mean()),
    )


def auroc(low: Floats, high: Floats) -> float:
    """Compute the share of pairs in which `high` (M,) exceeds `low` (N,); ties count half."""
    ordered = np.sort(low)
    below = np.searchsorted(ordered, high, "left") + np.searchsorted(ordered, high, "right")
    return float(below.mean() / (2 * len(low)))


def _divide(photographs: HeldOut, parts: int) -> list[Places]:
    """Divide photographs into parts with equal shares of each class, by the order of their digests."""
    order = np.lexsort((photographs.digests, photographs.labels))
    return [np.sort(order[start::parts]) for start in range(parts)]


def _apply(fitted: Fit, photographs: HeldOut) -> Results:
    scores, knots = photographs.scores, fitted.knots
    count = len(photographs.labels)
    unfamiliarity = None
    if scores is not None and knots is not None:
        unfamiliarity = np.interp(scores, knots, np.linspace(0, 1, len(knots)))
    return Results(
        photographs.labels,
        softmax(photographs.logits),
        softmax(photographs.logits, fitted.temperature),
        {key: np.full((count, 1), fitted.quantiles[key]) for key in REPORTED if key in fitted.quantiles},
        unfamiliarity,
    )


def _joined(parts: Sequence[Results]) -> Results:
    def joined(name: str) -> Any:
        return np.concatenate([getattr(part, name) for part in parts])

    everywhere = set.intersection(*(set(part.quantiles) for part in parts))
    return Results(
        joined("labels"),
        joined("before"),
        joined("probabilities"),
        {key: np.concatenate([part.quantiles[key] for part in parts]) for key in sorted(everywhere)},
        None if parts[0].unfamiliarity is None else joined("unfamiliarity"),
    )
