"""Every PromQL expression of the alerts and of the dashboard, and the names in one."""

import json
import re

from tests.support.checkout import ROOT

MONITORING = ROOT / "docker" / "monitoring"
DASHBOARD = MONITORING / "grafana" / "dashboards" / "alexnet.json"


def alerts() -> dict[str, str]:
    """name -> expression; each is on a line of its own."""
    text = (MONITORING / "alerts.yml").read_text()
    found = re.findall(r"- alert: (\w+)\n +expr: (\S.*)$", text, re.M)
    assert len(found) == len(re.findall(r"^ +- ", text, re.M)) - text.count("- name: "), (
        "an expr of two lines"
    )
    return dict(found)


def queries() -> dict[str, list[str]]:
    """A panel's title -> its expressions, with an interval where Grafana would put its own."""
    panels = json.loads(DASHBOARD.read_text())["panels"]
    return {
        panel["title"]: [t["expr"].replace("$__rate_interval", "1m") for t in panel["targets"]]
        for panel in panels
    }


def metrics_in(expression: str) -> set[str]:
    """What is left without texts, matchers, ranges, lists of labels, functions, operators and numbers."""
    bare = re.sub(r'"[^"]*"', "", expression)
    bare = re.sub(r"\{[^}]*\}|\[[^\]]*\]", "", bare)
    bare = re.sub(r"\b(by|without|on|ignoring|group_left|group_right)\b\s*(\([^)]*\))?", "", bare)
    return set(re.findall(r"\b[A-Za-z_:][\w:]*\b(?!\s*\()", bare)) - {"and", "or", "unless", "bool", "Inf"}


def labels_in(expression: str) -> set[str]:
    """Of matchers and of `by`."""
    matchers = re.findall(r"(\w+)\s*(?:=~|!~|!=|=)\s*\"", expression)
    lists = re.findall(r"\bby\s*\(([^)]*)\)", expression)
    return {*matchers, *(label.strip() for names in lists for label in names.split(","))}
