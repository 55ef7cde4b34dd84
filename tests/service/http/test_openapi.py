"""The OpenAPI description: complete, and true of a running server."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from service.problems import STATUSES
from tests.support.serving.server import Server

CONFIG = """
[checks.not_a_server_error]
expected-statuses = ["2xx", "3xx", "4xx", 504]  # a deadline of the client's own
"""


@pytest.fixture(scope="module")
def description(server: Server) -> dict[str, Any]:
    found: dict[str, Any] = server.client.get("/openapi.json").json()
    return found


@pytest.mark.parametrize("path", ["/predict", "/embed", "/explain"])
def test_every_status_has_an_example(description: dict[str, Any], path: str) -> None:
    answers = description["paths"][path]["post"]["responses"]
    assert {int(status) for status in answers} == {200} | {s for s, _code in STATUSES.values()} - {403}
    for status, answer in answers.items():
        if status != "200":
            assert answer["content"].keys() == {"application/problem+json"}
            assert answer["content"]["application/problem+json"]["example"]["status"] == int(status)


def test_every_field_of_an_answer_has_an_example(description: dict[str, Any]) -> None:
    bare = [
        f"{name}.{field}"
        for name, schema in description["components"]["schemas"].items()
        for field, says in schema.get("properties", {}).items()
        if not _shown(says)
    ]
    assert bare == []


def _shown(says: dict[str, Any]) -> bool:
    """An example, fixed values, or another schema that has them."""
    if says.keys() & {"examples", "enum", "const", "$ref", "default"}:
        return True
    inner = says.get("anyOf", []) + ([says["items"]] if isinstance(says.get("items"), dict) else [])
    return any(_shown(one) for one in inner)


def test_binary_bodies_are_described(description: dict[str, Any]) -> None:
    body = description["paths"]["/predict"]["post"]["requestBody"]["content"]
    assert body.keys() == {"multipart/form-data", "application/json", "image/*", "application/octet-stream"}
    raw = description["paths"]["/embed"]["post"]["responses"]["200"]["content"]
    assert raw["application/octet-stream"]["schema"]["format"] == "binary"
    assert "image/png" in description["paths"]["/explain"]["post"]["responses"]["200"]["content"]


def test_schemathesis_finds_nothing(server: Server, tmp_path: Path) -> None:
    """That random bytes are no picture is no finding: what else is said of valid bodies holds."""
    (tmp_path / "schemathesis.toml").write_text(CONFIG)
    done = subprocess.run(
        [
            *(Path(sys.executable).parent / "schemathesis", "run", f"{server.address}/openapi.json"),
            *("--max-examples", "4", "--seed", "1", "--generation-database", "none", "--no-color"),
            *("--exclude-checks", "positive_data_acceptance"),
        ],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-6000:]
    assert "ERROR" not in server.log
