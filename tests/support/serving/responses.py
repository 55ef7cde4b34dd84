"""What tests read out of answers."""

from typing import Any

import httpx


def check(response: httpx.Response, status: int, code: str, *said: str) -> None:
    """One shape everywhere, and nothing of the inside of the process in it."""
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    body = response.json()
    assert body.keys() == {"type", "title", "status", "detail", "code"}
    assert (body["type"], body["status"], body["code"]) == ("about:blank", status, code)
    for words in said:
        assert words in body["detail"]
    for inside in ("Traceback", 'File "', "/service/", "site-packages", " object at 0x"):
        assert inside not in response.text


def by_index(answer: dict[str, Any]) -> list[float]:
    return [p["probability"] for p in sorted(answer["predictions"], key=lambda p: int(p["index"]))]
