"""Extract the PromQL expressions of the alerts and the dashboard, and the names in them."""

import json
import re

from tests.support.checkout import ROOT

MONITORING = ROOT / "docker" / "monitoring"
DASHBOARD = MONITORING / "grafana" / "dashboards" / "alexnet.json"


def alerts() -> dict[str, str]:
    """Return the expression of every alert by name. Each must be on one line."""
    text = (MONITORING / "alerts.yml").read_text()
    pairs = re.findall(r"- alert: (\w+)\n +expr: (\S.*)$", text, re.M)
    assert len(pairs) == len(re.findall(r"^ +- ", text, re.M)) - text.count("- name: "), (
        "an expr has two lines"
    )
    return dict(pairs)


def queries() -> dict[str, list[str]]:
    """Return the expressions of every panel by title, with 1m for Grafana's interval."""
    panels = json.loads(DASHBOARD.read_text())["panels"]
    return {
        panel["title"]: [t["expr"].replace("$__rate_interval", "1m") for t in panel["targets"]]
        for panel in panels
    }


def metrics_in(expression: str) -> set[str]:
    """Return the metric names: what is left after all other parts of the expression are removed."""
    bare = re.sub(r'"[^"]*"', "", expression)
    bare = re.sub(r"\{[^}]*\}|\[[^\]]*\]", "", bare)
    bare = re.sub(r"\b(by|without|on|ignoring|group_left|group_right)\b\s*(\([^)]*\))?", "", bare)
    return set(re.findall(r"\b[A-Za-z_:][\w:]*\b(?!\s*\()", bare)) - {"and", "or", "unless", "bool", "Inf"}


def labels_in(expression: str) -> set[str]:
    """Return the label names in matchers and in `by`."""
    matchers = re.findall(r"(\w+)\s*(?:=~|!~|!=|=)\s*\"", expression)
    lists = re.findall(r"\bby\s*\(([^)]*)\)", expression)
    return {*matchers, *(label.strip() for names in lists for label in names.split(","))}
