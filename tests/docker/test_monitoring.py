"""Test the alerts and the dashboard's queries in a real Prometheus.

The image of Grafana is in no package registry; tests/service/observability/test_monitoring.py checks its
dashboard without it.
"""

import hashlib
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.docker.stack import Stack, photograph, top_label
from tests.support.eventually import eventually
from tests.support.promql import alerts, queries

pytestmark = [pytest.mark.docker, pytest.mark.timeout(300)]

EIGHT_SCRAPES_S = 120
# Panels without data, because no alert fires.
EMPTY = {"Alerts"}


def ask(stack: Stack, path: str, **parameters: str) -> Any:
    address = f"http://127.0.0.1:{stack.settings['PROMETHEUS_PORT']}/api/v1/{path}"
    answer = httpx.get(address, params=parameters, timeout=10).json()
    assert answer["status"] == "success", (parameters, answer)
    return answer["data"]


def health(stack: Stack, job: str = "alexnet") -> list[str]:
    """Return health and last error of each target of `job`."""
    targets = [t for t in ask(stack, "targets")["activeTargets"] if t["labels"]["job"] == job]
    return [f"{t['health']} {t['lastError']}".strip() for t in targets]


def test_prometheus_scrapes_every_replica(stack: Stack) -> None:
    stack.up("--scale", "service=2", "proxy", "prometheus")
    eventually(
        lambda: health(stack) == ["up", "up"] and health(stack, "proxy") == ["up"], within=EIGHT_SCRAPES_S
    )
    rules = [rule for group in ask(stack, "rules")["groups"] for rule in group["rules"]]
    assert {rule["name"] for rule in rules} == set(alerts())

    def has_data() -> bool:
        """Whether every panel has data, as after two scrapes with requests between them."""
        assert top_label(stack.client.post("/predict", content=photograph())) == "red"
        return all(
            ask(stack, "query", query=query)["result"]
            for title, panel in queries().items()
            if title not in EMPTY
            for query in panel
        )

    eventually(has_data, within=EIGHT_SCRAPES_S)
    assert ask(stack, "query", query='ALERTS{alertstate="firing"}')["result"] == []


def test_prometheus_uses_its_api_key(stack: Stack, tmp_path: Path) -> None:
    keys, key = tmp_path / "keys", tmp_path / "key"
    keys.write_text(hashlib.sha256(b"a key").hexdigest() + "\n")
    key.write_text("a key\n")
    both = ("--force-recreate", "service", "prometheus")
    stack.up(*both, API_KEYS_FILE=str(keys))
    eventually(
        lambda: health(stack) == ["down server returned HTTP status 401 Unauthorized"],
        within=EIGHT_SCRAPES_S,
    )
    stack.up(*both, API_KEYS_FILE=str(keys), PROMETHEUS_KEY_FILE=str(key))
    eventually(lambda: health(stack) == ["up"], within=EIGHT_SCRAPES_S)
