"""Test the confidence interval of an accuracy, and its formatting."""

import pytest

from contract.interval import wilson, with_interval


@pytest.mark.parametrize(
    ("correct", "count", "low", "high"),
    [(37, 40, 0.8014, 0.9742), (0, 10, 0.0, 0.2775), (10, 10, 0.7225, 1.0), (1, 1, 0.2065, 1.0)],
)
def test_wilson_matches_published_values(correct: int, count: int, low: float, high: float) -> None:
    assert wilson(correct / count, count) == pytest.approx((low, high), abs=5e-5)


def test_interval_has_more_digits_the_narrower_it_is() -> None:
    assert with_interval(0.925, 40) == "92.5 % (80 to 97 %, 40 photographs)"
    assert with_interval(0.56522, 50_000) == "56.5 % (56.1 to 57.0 %, 50,000 photographs)"
