"""What the server sends a browser."""

import pytest
from playwright.sync_api import expect

from tests.page.checks import Start
from tests.service.server import ROOT, Server


def test_files_are_revalidated_and_under_a_strict_policy(site: Server) -> None:
    page = site.client.get("/")
    assert page.status_code == 200
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    assert 'name="max-body-bytes" content="20000000"' in page.text
    names = [path.name for path in (ROOT / "service" / "static").iterdir()]
    for path in ["/", "/docs", *(f"/static/{name}" for name in names if not name.endswith(".html"))]:
        response = site.client.get(path, headers={"Accept-Encoding": "identity"})
        assert response.status_code == 200, path
        policy = response.headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        assert response.headers["x-content-type-options"] == "nosniff"
        assert response.headers["referrer-policy"] == "no-referrer"
        assert response.headers["cache-control"] == "no-cache"
        head = site.client.head(path, headers={"Accept-Encoding": "identity"})
        assert (head.status_code, head.content) == (200, b"")
        assert head.headers["etag"] == response.headers["etag"]

        squeezed = site.client.get(path, headers={"Accept-Encoding": "gzip"})
        assert squeezed.headers["content-encoding"] == "gzip"
        assert squeezed.content == response.content
        assert squeezed.headers["etag"] != response.headers["etag"]

        again = site.client.get(
            path, headers={"Accept-Encoding": "identity", "If-None-Match": response.headers["etag"]}
        )
        assert (again.status_code, again.content) == (304, b"")


@pytest.mark.parametrize(
    "path", ["/static/nothing.js", "/static/index.html", "/static/../app.py", "/static/"]
)
def test_nothing_else_is_a_file(site: Server, path: str) -> None:
    assert site.client.get(path).json()["code"] == "not_found"


def test_docs_come_from_here(site: Server, start: Start) -> None:
    page = start(site, "/docs")
    page.get_by_text("/predict", exact=True).click()
    expect(page.locator(".responses-table").first).to_be_visible()
