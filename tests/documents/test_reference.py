"""The generated reference covers every error, every metric and every path."""

import re

from scripts import reference
from service.problems import STATUSES
from tests.support.checkout import ROOT


def test_every_error_has_its_causes() -> None:
    assert reference.WHEN.keys() == STATUSES.keys()


def test_every_path_is_in_the_table() -> None:
    named = set(re.findall(r"`[A-Z]+ (/[^`]*)`", reference.endpoints()))
    assert named >= {
        "/predict",
        "/embed",
        "/explain",
        "/models",
        "/metrics",
        "/health/ready",
        "/v2/models/{name}/infer",
    }


def test_every_metric_that_documents_and_alerts_name_exists() -> None:
    known = set(re.findall(r"`(alexnet_\w+)`", reference.metrics()))
    alerts = (ROOT / "docker/monitoring/alerts.yml").read_text()
    prose = reference_prose("docs/metrics.md")
    named = set(re.findall(r"\balexnet_[a-z_]+(?=[ ({\[/<>=`)])", alerts + prose))
    assert named
    assert {re.sub(r"_(bucket|sum|count)$", "", name) for name in named} <= known


def reference_prose(document: str) -> str:
    """Return what is written by hand in a document."""
    return re.sub(r"\[\[\[cog.*?\[\[\[end\]\]\]", "", (ROOT / document).read_text(), flags=re.S)
