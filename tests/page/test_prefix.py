"""Behind a proxy that serves it below a path and takes that off, nothing is asked for elsewhere."""

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
    protocol_version = "HTTP/1.1"
    upstream: str
    astray: list[str]

    def answer(self) -> None:
        if not self.path.startswith(f"{PREFIX}/"):
            self.astray.append(self.path)
            self.send_error(404)
            return
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        url = self.upstream + self.path.removeprefix(PREFIX)
        found = httpx.request(self.command, url, headers=dict(self.headers), content=body)
        self.send_response(found.status_code)
        for name, value in found.headers.items():
            if name not in {"content-length", "content-encoding"}:
                self.send_header(name, value)
        self.send_header("Content-Length", str(len(found.content)))
        self.end_headers()
        self.wfile.write(found.content)

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
def below(site: Server) -> Iterator[Any]:
    """The site, at `address` below a path; `astray` are the paths beside it that were asked for."""
    astray = list[str]()
    kind = type("ProxyOfSite", (Proxy,), {"upstream": site.address, "astray": astray})
    with ThreadingHTTPServer(("127.0.0.1", 0), kind) as proxy:
        serving = threading.Thread(target=proxy.serve_forever)
        serving.start()
        yield SimpleNamespace(address=f"http://127.0.0.1:{proxy.server_port}{PREFIX}", astray=astray)
        proxy.shutdown()
        serving.join()


@pytest.mark.parametrize("path", ["/docs", "/docs/"])
def test_docs_try_what_is_below_the_prefix(below: Any, start: Start, path: str) -> None:
    page = start(below, path)
    page.get_by_text("/health/live", exact=True).first.click()
    page.get_by_role("button", name="Try it out").click()
    page.get_by_role("button", name="Execute").click()
    expect(page.locator(".request-url")).to_contain_text(f"{below.address}/health/live")
    expect(page.locator(".live-responses-table .response-col_status").last).to_contain_text("200")
    assert below.astray == []


def test_the_page_asks_below_the_prefix(below: Any, start: Start, pictures: dict[str, Path]) -> None:
    page = start(below, "/")
    page.set_input_files("#files", pictures["sure"])
    expect(page.locator(".timing")).to_contain_text("Answered in")
    page.get_by_role("link", name="the interface").click()
    expect(page.get_by_text("/predict", exact=True)).to_be_visible()
    assert below.astray == []


def test_the_description_names_its_own_place(site: Server) -> None:
    assert site.client.get("/openapi.json").json()["servers"] == [{"url": "."}]
