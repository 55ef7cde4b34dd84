"""Test the files of the page: headers, revalidation, and use below a path prefix."""

import pytest
from playwright.sync_api import Route, expect

from tests.page.checks import Start
from tests.support.checkout import ROOT
from tests.support.serving.server import Server


def test_files_are_revalidated_and_have_a_strict_policy(site: Server) -> None:
    page = site.client.get("/")
    assert page.status_code == 200
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    assert 'name="max-body-bytes" content="20000000"' in page.text
    names = [path.name for path in (ROOT / "service" / "http" / "static").iterdir()]
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

        compressed = site.client.get(path, headers={"Accept-Encoding": "gzip"})
        assert compressed.headers["content-encoding"] == "gzip"
        assert compressed.content == response.content
        assert compressed.headers["etag"] != response.headers["etag"]

        again = site.client.get(
            path, headers={"Accept-Encoding": "identity", "If-None-Match": response.headers["etag"]}
        )
        assert (again.status_code, again.content) == (304, b"")


@pytest.mark.parametrize(
    "path", ["/static/nothing.js", "/static/index.html", "/static/../app.py", "/static/"]
)
def test_other_paths_below_static_are_not_found(site: Server, path: str) -> None:
    assert site.client.get(path).json()["code"] == "not_found"


def test_docs_load_from_this_server(site: Server, start: Start) -> None:
    page = start(site, "/docs")
    page.get_by_text("/predict", exact=True).click()
    expect(page.locator(".responses-table").first).to_be_visible()


def test_page_works_below_a_path_prefix(site: Server, start: Start) -> None:
    """A proxy removes the prefix from the path."""

    def without_prefix(route: Route) -> None:
        path = route.request.url.removeprefix(site.address)
        assert path.startswith("/a/b/"), path
        route.continue_(url=site.address + path.removeprefix("/a/b"))

    page = start(site, "/static/favicon.svg")
    page.context.route(f"{site.address}/**", without_prefix)
    page.goto(f"{site.address}/a/b/")
    page.get_by_role("button", name="A daisy").click()
    expect(page.locator("#answer")).to_have_text("daisy")
    expect(page.locator(".curl code")).to_contain_text(f"{site.address}/a/b/predict")
    page.get_by_role("switch").click()
    expect(page.locator(".heat")).to_be_visible()
    page.get_by_role("link", name="AlexNet").click()
    expect(page.locator("#facts dd")).to_have_count(3)
    assert page.url == f"{site.address}/a/b/"
