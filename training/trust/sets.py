"""Fit and measure prediction sets: the labels that are probable enough for a chosen coverage.

Least ambiguous set-valued classifiers (Sadinle, Lei and Wasserman 2019) by split conformal prediction: a
label is in the set if 1 - its probability is at most the quantile. Of photographs like those of the fit, at
least the share `coverage` has its class in the set, on average over fits.
"""

import math
from collections.abc import Mapping
from typing import Final

import numpy as np

from contract.interval import wilson
from contract.trust import COVERAGES, CoverageResult, Share
from training.trust.calibration import Floats, Labels

REPORTED: Final = ("0.80", "0.90", "0.95")


def fit_quantiles(probabilities: Floats, labels: Labels) -> dict[str, float]:
    """Compute the quantiles of 1 - the true class's probability, for each supported coverage.

    Of N photographs it is the ceil((N + 1) * coverage)-th smallest value; N may be too small for it.
    """
    scores = np.sort(1 - probabilities[np.arange(len(labels)), labels])
    ranks = {coverage: math.ceil(round((len(scores) + 1) * float(coverage), 6)) for coverage in COVERAGES}
    return {coverage: float(scores[rank - 1]) for coverage, rank in ranks.items() if rank <= len(scores)}


def prediction_sets(
    probabilities: Floats, quantile: float | Floats
) -> np.ndarray[tuple[int, int], np.dtype[np.bool_]]:
    """Tell which labels are in the sets (N, classes); `quantile` may be one for each row (N, 1)."""
    return np.asarray(1 - probabilities <= quantile)


def measure_sets(
    probabilities: Floats, labels: Labels, quantiles: Mapping[str, Floats]
) -> tuple[CoverageResult, ...]:
    """Measure the REPORTED coverages; `quantiles` has one for each row (N, 1)."""
    results = []
    for coverage in REPORTED:
        if coverage in quantiles:
            sets = prediction_sets(probabilities, quantiles[coverage])
            achieved = float(sets[np.arange(len(labels)), labels].mean())
            share = Share(achieved, *wilson(achieved, len(labels)))
            results.append(CoverageResult(float(coverage), share, float(sets.sum(1).mean())))
    return tuple(results)
