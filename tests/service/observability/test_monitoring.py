"""The queries of docker/monitoring use existing metrics, and its alerts fire when they should."""

import json
import os
import shutil
import subprocess
from itertools import combinations
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.support.promql import DASHBOARD, MONITORING, alerts, labels_in, metrics_in, queries
from tests.support.serving.images import plain
from tests.support.serving.server import Server

# Metrics of other sources than the service; tests/docker/test_monitoring.py checks them.
EXTERNAL_METRICS = {
    "up": {"job", "instance"},
    "ALERTS": {"alertname", "alertstate"},
    "haproxy_backend_requests_denied_total": {"proxy"},
}
QUERIES = [*alerts().values(), *(query for panel in queries().values() for query in panel)]


def promtool(*arguments: str | Path) -> None:
    if not shutil.which("promtool"):
        assert not os.environ.get("CI"), "CI installs promtool"
        pytest.skip("promtool is not installed; Debian's package prometheus has it")
    done = subprocess.run(["promtool", *arguments], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_query_uses_existing_metrics_and_labels(server: Server) -> None:
    assert server.client.post("/predict", content=plain(1)).status_code == 200
    labels: dict[str, set[str]] = {name: set(names) for name, names in EXTERNAL_METRICS.items()}
    for family in text_string_to_metric_families(server.client.get("/metrics").text):
        for sample in family.samples:
            labels.setdefault(sample.name, {"job", "instance"}).update(sample.labels)
    assert len(QUERIES) > 30
    for query in QUERIES:
        names = metrics_in(query)
        assert names, query
        assert names <= set(labels), query
        assert labels_in(query) <= set().union(*(labels[name] for name in names)), query


def test_metric_and_label_names_are_parsed_from_a_query() -> None:
    query = (
        'sum by (le, stage) (rate(a_total{b=~"c{2}d"}[5m])) / on (e) group_left max(f:g) > 5 or vector(1e3)'
    )
    assert metrics_in(query) == {"a_total", "f:g"}
    assert labels_in(query) == {"le", "stage", "b"}


def test_alerts_fire_when_they_should() -> None:
    promtool("test", "rules", Path(__file__).with_name("alerts.yml"))


def test_promtool_accepts_the_dashboard_queries(tmp_path: Path) -> None:
    """Write the queries as recording rules (JSON is valid YAML) and check them with promtool."""
    rules = [
        {"record": f"query:{number}", "expr": query}
        for number, query in enumerate(query for panel in queries().values() for query in panel)
    ]
    path = tmp_path / "rules.yml"
    path.write_text(json.dumps({"groups": [{"name": "dashboard", "rules": rules}]}))
    promtool("check", "rules", "--lint=none", path)


def test_dashboard_panels_do_not_overlap() -> None:
    """Panels have unique ids and titles, a provisioned data source, and do not overlap."""
    panels = json.loads(DASHBOARD.read_text())["panels"]
    assert (
        len({panel["id"] for panel in panels}) == len({panel["title"] for panel in panels}) == len(panels)
    )
    provisioned = (MONITORING / "grafana" / "datasources" / "prometheus.yml").read_text()
    for panel in panels:
        assert f"uid: {panel['datasource']['uid']}\n" in provisioned
        assert panel["gridPos"]["x"] + panel["gridPos"]["w"] <= 24
    for first, second in combinations([panel["gridPos"] for panel in panels], 2):
        beside = first["x"] + first["w"] <= second["x"] or second["x"] + second["w"] <= first["x"]
        above = first["y"] + first["h"] <= second["y"] or second["y"] + second["h"] <= first["y"]
        assert beside or above, (first, second)
