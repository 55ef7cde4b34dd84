"""Test what the manifest's section trust needs beside its fields, and the quantiles that it returns."""

import math
from dataclasses import replace
from typing import Any

import pytest

from contract.fields import ManifestError
from contract.manifest import Tensor
from contract.trust import COVERAGES, UNFAMILIARITY, Trust
from tests.support.manifests import MANIFEST, TRUST, TRUSTED


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("key", ["temperature", "unknown_above", "auroc", "mean_size", "coverage", "low"])
def test_nan_and_infinity_cannot_be_written(key: str, value: float) -> None:
    assert TRUST.familiarity is not None
    owners = (TRUST, TRUST.familiarity, TRUST.familiarity.unfamiliar[0], TRUST.sets[0], TRUST.ece)
    owner: Any
    (owner,) = (owner for owner in owners if hasattr(owner, key))
    with pytest.raises(ManifestError, match=str(value)):
        replace(owner, **{key: value})


@pytest.mark.parametrize(
    "output",
    [
        Tensor(UNFAMILIARITY, "float32", (None, 1), "a column"),
        Tensor(UNFAMILIARITY, "float32", (1,), "of one image"),
        Tensor(UNFAMILIARITY, "uint8", (None,), "in percent"),
        Tensor("familiarity", "float32", (None,), "of another name"),
    ],
)
def test_familiarity_needs_its_output(output: Tensor) -> None:
    with pytest.raises(ManifestError, match=r"trust\.familiarity needs one output unfamiliarity, float32"):
        replace(TRUSTED, outputs=(*MANIFEST.outputs, output))
    with pytest.raises(ManifestError, match=r"trust\.familiarity needs one output"):
        replace(TRUSTED, outputs=(*TRUSTED.outputs, TRUSTED.outputs[-1]))


@pytest.mark.parametrize("trust", [None, replace(TRUST, familiarity=None)])
def test_output_needs_familiarity(trust: Trust | None) -> None:
    with pytest.raises(ManifestError, match=r"outputs has unfamiliarity, which needs trust\.familiarity"):
        replace(TRUSTED, trust=trust)


@pytest.mark.parametrize(
    ("coverage", "percent"),
    [(0.5, 50), (0.500001, 51), (0.9, 90), (0.905, 91), (0.91, 91), (0.55, 55), (0.95, 95)],
)
def test_quantile_is_that_of_the_next_whole_percent(coverage: float, percent: int) -> None:
    assert TRUST.quantile(coverage) == TRUST.quantiles[f"0.{percent}"]
    assert TRUST.max_coverage == 0.95


@pytest.mark.parametrize("coverage", [0, 0.49, 0.951, 0.96, 0.99, 1, 95, -0.9, math.nan, math.inf, 1e308])
def test_coverage_beyond_what_the_photographs_support_is_refused(coverage: float) -> None:
    with pytest.raises(
        ValueError, match=r"coverage is .*; this model's 340 photographs support 0\.5 to 0\.95$"
    ):
        TRUST.quantile(coverage)


def test_no_coverage_is_supported_by_too_few_photographs() -> None:
    trust = replace(TRUST, photographs=1, quantiles={}, sets=())
    assert trust.max_coverage == 0
    with pytest.raises(ValueError, match=r"^coverage is 0\.9; this model's 1 photographs support none$"):
        trust.quantile(0.9)


def test_every_coverage_up_to_99_percent_can_be_supported() -> None:
    trust = replace(TRUST, quantiles={key: n / 50 for n, key in enumerate(COVERAGES)})
    assert (trust.max_coverage, trust.quantile(0.99), trust.quantile(0.981)) == (0.99, 0.98, 0.98)


def test_graph_may_have_no_background() -> None:
    assert TRUST.familiarity is not None
    assert replace(TRUST.familiarity, background=0).background == 0
