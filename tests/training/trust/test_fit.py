"""Trust is measured on photographs that its fit left out."""

import numpy as np
import pytest

from training.trust.calibration import softmax
from training.trust.fit import (
    KNOTS,
    HeldOut,
    auroc,
    compare_unfamiliar,
    fit,
    fit_and_measure,
    trust_of,
)


def drawn(per_class: int, classes: int = 3, seed: int = 0, scored: bool = True) -> HeldOut:
    draw = np.random.default_rng(seed)
    labels = np.repeat(np.arange(classes), per_class)
    logits = draw.normal(size=(len(labels), classes)) + 2 * np.eye(classes)[labels]
    digests = draw.integers(-(2**62), 2**62, len(labels))
    return HeldOut(logits, labels, digests, draw.normal(size=len(labels)) if scored else None)


def test_halves_fit_on_one_half_and_measure_on_the_other() -> None:
    photographs = drawn(per_class=40)
    method, fitted, results = fit_and_measure(photographs)
    assert method == "halves"
    assert np.bincount(results.labels).tolist() == [20, 20, 20], "the halves are stratified"
    measured = [photographs.logits.tolist().index(row) for row in logits_of(results.before, photographs)]
    others = np.setdiff1d(np.arange(120), measured)
    assert fit(photographs.part(others)).temperature == fitted.temperature


def logits_of(probabilities: np.ndarray, photographs: HeldOut) -> list[list[float]]:
    """Find the logits whose softmax are these probabilities."""
    table = {
        tuple(row): logits
        for row, logits in zip(
            softmax(photographs.logits).tolist(), photographs.logits.tolist(), strict=True
        )
    }
    return [table[tuple(row)] for row in probabilities.tolist()]


def test_cross_fitting_measures_every_photograph_once_and_fits_to_all() -> None:
    photographs = drawn(per_class=15)
    method, fitted, results = fit_and_measure(photographs)
    assert method == "cross-fitting"
    assert sorted(logits_of(results.before, photographs)) == sorted(photographs.logits.tolist())
    assert fitted.temperature == fit(photographs).temperature
    assert len({float(q) for q in results.quantiles["0.90"][:, 0]}) > 1, "each fifth has its own fit"


def test_the_division_depends_on_the_photographs_and_not_on_their_order() -> None:
    photographs = drawn(per_class=15)
    order = np.random.default_rng(1).permutation(45)
    _method, fitted, results = fit_and_measure(photographs)
    _method, again, results_again = fit_and_measure(photographs.part(order))
    assert again.temperature == pytest.approx(fitted.temperature)
    assert sorted(results.probabilities.max(1)) == pytest.approx(sorted(results_again.probabilities.max(1)))


def test_about_a_twentieth_of_other_photographs_is_unknown() -> None:
    _method, fitted, results = fit_and_measure(drawn(per_class=400))
    assert results.unfamiliarity is not None
    assert 0 <= results.unfamiliarity.min() <= results.unfamiliarity.max() <= 1
    trust = trust_of(1200, "halves", fitted, results, references=9, background=0)
    assert trust.familiarity is not None
    assert trust.familiarity.known.low <= 0.95 <= trust.familiarity.known.high
    assert fitted.knots is not None
    assert len(fitted.knots) == KNOTS


def test_without_scores_there_is_no_familiarity() -> None:
    method, fitted, results = fit_and_measure(drawn(per_class=15, scored=False))
    trust = trust_of(45, method, fitted, results)
    assert trust.familiarity is None
    assert trust.max_coverage == 0.97


def test_auroc_counts_pairs() -> None:
    assert auroc(np.array([1.0, 2.0]), np.array([3.0, 4.0])) == 1
    assert auroc(np.array([3.0, 4.0]), np.array([1.0, 2.0])) == 0
    assert auroc(np.array([1.0, 3.0]), np.array([2.0, 3.0])) == (1 + 0 + 1 + 0.5) / 4


def test_unfamiliar_pictures_are_compared_by_their_unfamiliarity_and_probability() -> None:
    familiar = np.linspace(0, 1, 101)
    probabilities = np.array([[0.9, 0.1], [0.6, 0.4], [0.5, 0.5], [0.8, 0.2]])
    result = compare_unfamiliar("cats", probabilities, np.array([0.5, 0.96, 0.2, 0.9]), familiar, 0.92)
    assert (result.data, result.images) == ("cats", 4)
    assert result.fpr95 == 0.75, "three are below 0.95"
    assert result.known_and_probable == 0.5, "of the three known ones one has no probability above a half"
