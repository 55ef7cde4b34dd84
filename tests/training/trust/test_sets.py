"""Prediction sets equal those of MAPIE and crepes, and cover as often as promised."""

from typing import Any

import numpy as np
import pytest
from crepes import ConformalClassifier
from mapie.classification import SplitConformalClassifier
from sklearn.base import BaseEstimator, ClassifierMixin

from training.trust.calibration import softmax
from training.trust.sets import REPORTED, fit_quantiles, measure_sets, prediction_sets

CLASSES = 6


class Fixed(ClassifierMixin, BaseEstimator):  # type: ignore[misc]
    """A classifier of scikit-learn's kind, whose features are its probabilities."""

    classes_ = np.arange(CLASSES)

    def fit(self, _x: Any, _y: Any) -> "Fixed":
        return self

    def __sklearn_is_fitted__(self) -> bool:
        return True

    def predict_proba(self, x: Any) -> Any:
        return x

    def predict(self, x: Any) -> Any:
        return x.argmax(1)


def drawn(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    draw = np.random.default_rng(seed)
    probabilities = softmax(draw.normal(size=(count, CLASSES)) * 2)
    return probabilities, np.array([draw.choice(CLASSES, p=row) for row in probabilities])


@pytest.mark.parametrize("count", [40, 255])
@pytest.mark.parametrize("coverage", REPORTED)
def test_sets_equal_those_of_mapie_and_crepes(coverage: str, count: int) -> None:
    (fitted, labels), (others, _labels) = drawn(count, 1), drawn(300, 2)
    quantile = fit_quantiles(fitted, labels)[coverage]
    ours = prediction_sets(others, quantile)

    mapie = SplitConformalClassifier(Fixed(), confidence_level=float(coverage), prefit=True)
    _predicted, sets = mapie.conformalize(fitted, labels).predict_set(others)
    np.testing.assert_array_equal(ours, sets[:, :, 0])

    # crepes includes a label whose p-value is above 1 - coverage.
    referee = ConformalClassifier().fit(1 - fitted[np.arange(count), labels])
    theirs = referee.predict_set(1 - others, confidence=float(coverage), smoothing=False)
    np.testing.assert_array_equal(ours, np.asarray(theirs, bool))
    assert 0 < ours.mean() < 1


def test_the_quantiles_reach_as_far_as_the_photographs_support() -> None:
    assert list(fit_quantiles(*drawn(19, 3)))[-1] == "0.95"
    assert list(fit_quantiles(*drawn(98, 3)))[-1] == "0.98"
    assert list(fit_quantiles(*drawn(99, 3)))[-1] == "0.99"


def test_the_measured_coverage_is_about_the_promised_one() -> None:
    quantiles = fit_quantiles(*drawn(2000, 4))
    probabilities, labels = drawn(2000, 5)
    rows = {key: np.full((2000, 1), quantiles[key]) for key in REPORTED}
    for result in measure_sets(probabilities, labels, rows):
        assert result.achieved.low <= result.coverage <= result.achieved.high
        assert (
            result.mean_size
            == prediction_sets(probabilities, quantiles[f"{result.coverage:.2f}"]).sum(1).mean()
        )
