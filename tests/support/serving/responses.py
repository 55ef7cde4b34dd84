"""Check responses of the service."""

from typing import Any

import httpx


def check(response: httpx.Response, status: int, code: str, *words: str) -> None:
    """Assert that a response is a problem with this status, code and words, and reveals no internals."""
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    body = response.json()
    assert body.keys() == {"type", "title", "status", "detail", "code"}
    assert (body["type"], body["status"], body["code"]) == ("about:blank", status, code)
    for word in words:
        assert word in body["detail"]
    for internal in ("Traceback", 'File "', "/service/", "site-packages", " object at 0x"):
        assert internal not in response.text


def by_index(answer: dict[str, Any]) -> list[float]:
    """Return the probabilities in the order of the class indices."""
    return [p["probability"] for p in sorted(answer["predictions"], key=lambda p: int(p["index"]))]
