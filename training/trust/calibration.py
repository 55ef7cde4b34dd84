"""Fit a temperature to a network's logits, and measure how well its probabilities are calibrated."""

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from contract.trust import Share

BINS: Final = 15  # of equal width, as Guo et al. 2017
RESAMPLES: Final = 1000  # of the bootstrap
MIN_TEMPERATURE, MAX_TEMPERATURE = 0.05, 20.0

Floats = NDArray[np.float64]
Labels = NDArray[Any]


@dataclass(frozen=True)
class Bin:
    """The `count` photographs whose highest probability lies in one bin: its mean, and their accuracy."""

    count: int
    probability: float
    accuracy: float


def softmax(logits: Floats, temperature: float = 1.0) -> Floats:
    """Compute the softmax of logits (N, classes) divided by `temperature`."""
    scaled = logits / temperature
    powers = np.exp(scaled - scaled.max(1, keepdims=True))
    return np.asarray(powers / powers.sum(1, keepdims=True))


def fit_temperature(logits: Floats, labels: Labels) -> float:
    """Find the temperature with the least mean negative log-likelihood of labels (N,).

    The likelihood is concave in 1 / temperature: where its slope, the mean logit of the true class less the
    expected one, is 0, is found by bisection.
    """
    true = logits[np.arange(len(labels)), labels].mean()
    low, high = 1 / MAX_TEMPERATURE, 1 / MIN_TEMPERATURE
    for _halving in range(60):
        middle = (low + high) / 2
        expected = (softmax(logits, 1 / middle) * logits).sum(1).mean()
        low, high = (middle, high) if expected < true else (low, middle)
    return float(2 / (low + high))


def reliability(probabilities: Floats, labels: Labels) -> list[Bin]:
    """Group photographs by their highest probability, into those of BINS bins that have any."""
    highest, right = probabilities.max(1), probabilities.argmax(1) == labels
    bins = np.minimum((highest * BINS).astype(int), BINS - 1)
    return [
        Bin(int(chosen.sum()), float(highest[chosen].mean()), float(right[chosen].mean()))
        for chosen in (bins == number for number in range(BINS))
        if chosen.any()
    ]


def calibration_error(probabilities: Floats, labels: Labels) -> Share:
    """Measure the expected calibration error: the mean gap between probability and accuracy of the bins.

    The interval is the bootstrap's.
    """
    draws = np.random.default_rng(0).integers(0, len(labels), (RESAMPLES, len(labels)))
    samples = [_error(probabilities[rows], labels[rows]) for rows in draws]
    low, high = np.quantile(samples, (0.025, 0.975))
    return Share(_error(probabilities, labels), float(low), float(high))


def _error(probabilities: Floats, labels: Labels) -> float:
    bins = reliability(probabilities, labels)
    return sum(b.count * abs(b.probability - b.accuracy) for b in bins) / len(labels)
