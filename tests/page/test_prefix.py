"""Test the page behind a proxy with a path prefix: all requests stay below the prefix."""

import threading
from collections.abc import Iterator
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Final

import httpx
import pytest
from playwright.sync_api import expect

from tests.page.checks import Start
from tests.support.serving.server import Server

PREFIX: Final = "/models/alexnet"


class Proxy(BaseHTTPRequestHandler):
    """Forwards requests below PREFIX; others get 404 and are recorded in `outside_paths`."""

    protocol_version = "HTTP/1.1"
    upstream: str
    outside_paths: list[str]

    def answer(self) -> None:
        if not self.path.startswith(f"{PREFIX}/"):
            self.outside_paths.append(self.path)
            self.send_error(404)
            return
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        url = self.upstream + self.path.removeprefix(PREFIX)
        response = httpx.request(self.command, url, headers=dict(self.headers), content=body)
        self.send_response(response.status_code)
        for name, value in response.headers.items():
            if name not in {"content-length", "content-encoding"}:
                self.send_header(name, value)
        self.send_header("Content-Length", str(len(response.content)))
        self.end_headers()
        self.wfile.write(response.content)

    def do_GET(self) -> None:
        self.answer()

    def do_POST(self) -> None:
        self.answer()

    def handle(self) -> None:
        with suppress(ConnectionResetError):
            super().handle()

    def log_request(self, code: int | str = "-", size: int | str = "-") -> None:
        pass


@pytest.fixture(scope="module")
def prefixed_site(site: Server) -> Iterator[Any]:
    """Serve the site below a path prefix; `outside_paths` are requested paths outside of it."""
    outside_paths = list[str]()
    kind = type("ProxyOfSite", (Proxy,), {"upstream": site.address, "outside_paths": outside_paths})
    with ThreadingHTTPServer(("127.0.0.1", 0), kind) as proxy:
        serving = threading.Thread(target=proxy.serve_forever)
        serving.start()
        yield SimpleNamespace(
            address=f"http://127.0.0.1:{proxy.server_port}{PREFIX}", outside_paths=outside_paths
        )
        proxy.shutdown()
        serving.join()


@pytest.mark.parametrize("path", ["/docs", "/docs/"])
def test_docs_send_requests_below_the_prefix(prefixed_site: Any, start: Start, path: str) -> None:
    page = start(prefixed_site, path)
    page.get_by_text("/health/live", exact=True).first.click()
    page.get_by_role("button", name="Try it out").click()
    page.get_by_role("button", name="Execute").click()
    expect(page.locator(".request-url")).to_contain_text(f"{prefixed_site.address}/health/live")
    expect(page.locator(".live-responses-table .response-col_status").last).to_contain_text("200")
    assert prefixed_site.outside_paths == []


def test_page_sends_requests_below_the_prefix(
    prefixed_site: Any, start: Start, pictures: dict[str, Path]
) -> None:
    page = start(prefixed_site, "/")
    page.set_input_files("#files", pictures["sure"])
    expect(page.locator(".timing")).to_contain_text("Answered in")
    page.get_by_role("link", name="the interface").click()
    expect(page.get_by_text("/predict", exact=True)).to_be_visible()
    assert prefixed_site.outside_paths == []


def test_openapi_names_a_relative_server(site: Server) -> None:
    assert site.client.get("/openapi.json").json()["servers"] == [{"url": "."}]
