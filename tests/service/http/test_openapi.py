"""The OpenAPI description is complete and matches a running server."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from service.problems import STATUSES
from tests.support.serving.server import Server

CONFIG = """
[checks.not_a_server_error]
expected-statuses = ["2xx", "3xx", "4xx", 504]  # the client may set a short deadline
"""


@pytest.fixture(scope="module")
def description(server: Server) -> dict[str, Any]:
    document: dict[str, Any] = server.client.get("/openapi.json").json()
    return document


@pytest.mark.parametrize("path", ["/predict", "/embed", "/explain"])
def test_every_status_has_an_example(description: dict[str, Any], path: str) -> None:
    answers = description["paths"][path]["post"]["responses"]
    assert {int(status) for status in answers} == {200} | {s for s, _code in STATUSES.values()} - {403}
    for status, answer in answers.items():
        if status != "200":
            assert answer["content"].keys() == {"application/problem+json"}
            assert answer["content"]["application/problem+json"]["example"]["status"] == int(status)


def test_every_field_of_a_response_has_an_example(description: dict[str, Any]) -> None:
    without_example = [
        f"{name}.{field}"
        for name, schema in description["components"]["schemas"].items()
        for field, field_schema in schema.get("properties", {}).items()
        if not _has_example(field_schema)
    ]
    assert without_example == []


def _has_example(schema: dict[str, Any]) -> bool:
    """Return whether a schema has examples, fixed values, or another schema that has them."""
    if schema.keys() & {"examples", "enum", "const", "$ref", "default"}:
        return True
    nested = schema.get("anyOf", []) + ([schema["items"]] if isinstance(schema.get("items"), dict) else [])
    return any(_has_example(inner) for inner in nested)


def test_binary_bodies_are_described(description: dict[str, Any]) -> None:
    body = description["paths"]["/predict"]["post"]["requestBody"]["content"]
    assert body.keys() == {"multipart/form-data", "application/json", "image/*", "application/octet-stream"}
    raw = description["paths"]["/embed"]["post"]["responses"]["200"]["content"]
    assert raw["application/octet-stream"]["schema"]["format"] == "binary"
    assert "image/png" in description["paths"]["/explain"]["post"]["responses"]["200"]["content"]


def test_schemathesis_reports_no_failure(server: Server, tmp_path: Path) -> None:
    """Exclude positive_data_acceptance: random bytes match the schema of an image, but are none."""
    (tmp_path / "schemathesis.toml").write_text(CONFIG)
    done = subprocess.run(
        [
            *(Path(sys.executable).parent / "schemathesis", "run", f"{server.address}/openapi.json"),
            *("--max-examples", "8", "--seed", "1", "--generation-database", "none", "--no-color"),
            *("--exclude-checks", "positive_data_acceptance"),
        ],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-6000:]
    assert "ERROR" not in server.log
