"""docker/monitoring asks for what the service has, and its alerts fire when they should."""

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

# What others than the service have; tests/docker/test_monitoring.py asks them.
OF_OTHERS = {
    "up": {"job", "instance"},
    "ALERTS": {"alertname", "alertstate"},
    "haproxy_backend_requests_denied_total": {"proxy"},
}
ALL = [*alerts().values(), *(query for panel in queries().values() for query in panel)]


def promtool(*arguments: str | Path) -> None:
    if not shutil.which("promtool"):
        assert not os.environ.get("CI"), "CI installs promtool"
        pytest.skip("promtool is not installed; Debian's package prometheus has it")
    done = subprocess.run(["promtool", *arguments], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_query_asks_for_what_the_service_has(server: Server) -> None:
    assert server.client.post("/predict", content=plain(1)).status_code == 200
    labels: dict[str, set[str]] = {name: set(own) for name, own in OF_OTHERS.items()}
    for family in text_string_to_metric_families(server.client.get("/metrics").text):
        for sample in family.samples:
            labels.setdefault(sample.name, {"job", "instance"}).update(sample.labels)
    assert len(ALL) > 30
    for query in ALL:
        names = metrics_in(query)
        assert names, query
        assert names <= set(labels), query
        assert labels_in(query) <= set().union(*(labels[name] for name in names)), query


def test_names_are_found_in_a_query() -> None:
    query = (
        'sum by (le, stage) (rate(a_total{b=~"c{2}d"}[5m])) / on (e) group_left max(f:g) > 5 or vector(1e3)'
    )
    assert metrics_in(query) == {"a_total", "f:g"}
    assert labels_in(query) == {"le", "stage", "b"}


def test_the_alerts_fire_when_they_should() -> None:
    promtool("test", "rules", Path(__file__).with_name("alerts.yml"))


def test_prometheus_understands_the_dashboard(tmp_path: Path) -> None:
    """Its queries as recording rules, which promtool checks; YAML holds JSON."""
    rules = [
        {"record": f"query:{number}", "expr": query}
        for number, query in enumerate(query for panel in queries().values() for query in panel)
    ]
    path = tmp_path / "rules.yml"
    path.write_text(json.dumps({"groups": [{"name": "dashboard", "rules": rules}]}))
    promtool("check", "rules", "--lint=none", path)


def test_the_dashboard_is_whole() -> None:
    """Panels beside each other, each with its data source as it is provisioned."""
    panels = json.loads(DASHBOARD.read_text())["panels"]
    assert (
        len({panel["id"] for panel in panels}) == len({panel["title"] for panel in panels}) == len(panels)
    )
    provisioned = (MONITORING / "grafana" / "datasources" / "prometheus.yml").read_text()
    for panel in panels:
        assert f"uid: {panel['datasource']['uid']}\n" in provisioned
        assert panel["gridPos"]["x"] + panel["gridPos"]["w"] <= 24
    for one, other in combinations([panel["gridPos"] for panel in panels], 2):
        beside = one["x"] + one["w"] <= other["x"] or other["x"] + other["w"] <= one["x"]
        above = one["y"] + one["h"] <= other["y"] or other["y"] + other["h"] <= one["y"]
        assert beside or above, (one, other)
