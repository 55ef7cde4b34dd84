"""Temperature and calibration error, against scipy's optimiser and by hand."""

import numpy as np
import pytest
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax

from training.trust.calibration import (
    MAX_TEMPERATURE,
    MIN_TEMPERATURE,
    calibration_error,
    fit_temperature,
    reliability,
    softmax,
)


def drawn(count: int, classes: int, temperature: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Draw logits, and labels by the probabilities that they have at `temperature`."""
    draw = np.random.default_rng(seed)
    logits = draw.normal(size=(count, classes)) * 3
    probabilities = softmax(logits, temperature)
    return logits, np.array([draw.choice(classes, p=row) for row in probabilities])


@pytest.mark.parametrize(("temperature", "classes"), [(0.4, 17), (1.0, 2), (2.5, 5)])
def test_the_temperature_is_the_optimum_that_scipy_finds(temperature: float, classes: int) -> None:
    logits, labels = drawn(400, classes, temperature, seed=classes)

    def loss(log_temperature: float) -> float:
        scaled = log_softmax(logits / np.exp(log_temperature), axis=1)
        return float(-scaled[np.arange(len(labels)), labels].mean())

    best = minimize_scalar(loss, bounds=(-3, 3), method="bounded", options={"xatol": 1e-9})
    fitted = fit_temperature(logits, labels)
    assert fitted == pytest.approx(np.exp(best.x), rel=1e-4)
    assert fitted == pytest.approx(temperature, rel=0.25), "which is about what the labels were drawn with"


def test_the_temperature_is_bounded_where_the_likelihood_has_no_optimum() -> None:
    right = np.eye(3) / 2
    assert fit_temperature(right, np.arange(3)) == pytest.approx(MIN_TEMPERATURE)
    assert fit_temperature(right, np.array([1, 2, 0])) == pytest.approx(MAX_TEMPERATURE)


def test_the_calibration_error_is_the_mean_gap_weighted_by_counts() -> None:
    sure, unsure = [0.95, 0.05], [0.55, 0.45]
    probabilities, labels = np.array([sure] * 6 + [unsure] * 4), np.array([0] * 6 + [0, 0, 0, 1])
    bins = reliability(probabilities, labels)
    assert [(b.count, b.accuracy) for b in bins] == [(4, 0.75), (6, 1.0)]
    assert [b.probability for b in bins] == pytest.approx([0.55, 0.95])
    error = calibration_error(probabilities, labels)
    assert error.value == pytest.approx(0.6 * 0.05 + 0.4 * 0.2)
    assert error.low < error.value < error.high


def test_temperature_scaling_calibrates_and_keeps_the_order() -> None:
    logits, labels = drawn(1500, 10, 2.0, seed=1)
    before = calibration_error(softmax(logits), labels)
    probabilities = softmax(logits, fit_temperature(logits, labels))
    assert calibration_error(probabilities, labels).value < before.value / 4
    assert (probabilities.argmax(1) == logits.argmax(1)).all()


def test_a_probability_of_one_has_a_bin() -> None:
    (only,) = reliability(np.array([[1.0, 0.0]]), np.array([0]))
    assert (only.count, only.accuracy) == (1, 1.0)
