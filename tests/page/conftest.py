"""Chromium, the servers that its page is opened from, and pictures to show it."""

import hashlib
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, expect

from tests.page.browser import chromium
from tests.page.checks import KEY, LIMIT, WIDE, Start, ask
from tests.page.flowers import FLOWERS, draw
from tests.support.browser import NO_BROWSER, REQUIRED, find_browser
from tests.support.checkout import ROOT
from tests.support.serving.images import encoded
from tests.support.serving.server import Server, serving

MODEL: Final = ROOT / "models" / "flowers17.onnx"
# What a card could try: markup, a script's address, a picture from elsewhere.
NASTY: Final = """# Card <img src=x onerror="document.title='broken'">

<script>document.title = "broken"</script> and [press](javascript:document.title='broken') and
[a page](https://example.org/a) and [a file](../README.md), `code <b>`, **strong**.

- one
- two <i>

| kind | right |
|---|---|
| <u>a</u> | 9 % |

```
curl <b>
```
"""
expect.set_options(timeout=20_000)  # ms; on a machine that does other things too


@pytest.fixture(scope="package")
def browser_is_here() -> None:
    """Without one the page's tests are skipped; with REQUIRE_BROWSER=1, as CI sets it, they fail."""
    if find_browser() is None:
        if REQUIRED:
            pytest.fail(f"REQUIRE_BROWSER=1, but {NO_BROWSER}")
        pytest.skip(NO_BROWSER)


@pytest.fixture(autouse=True)
def first_of_all(browser_is_here: None) -> None:
    """Before a server is started for nothing."""


@pytest.fixture(scope="package")
def browser(browser_is_here: None) -> Iterator[Browser]:
    with chromium() as running:
        yield running


@pytest.fixture(scope="package")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    log = tmp_path_factory.mktemp("log") / "stderr"
    with serving(log, MODEL) as running:
        yield running


@pytest.fixture(scope="package")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Two models, one with a nasty card; wants a key; takes little."""
    folder = tmp_path_factory.mktemp("guarded")
    (folder / "models").mkdir()
    for name, card in (("first", "# A model for tests\n"), ("second", NASTY)):
        shutil.copy(MODEL, folder / "models" / f"{name}.onnx")
        (folder / "models" / f"{name}.md").write_text(card)
    keys = folder / "keys"
    keys.write_text(hashlib.sha256(KEY.encode()).hexdigest())
    settings = {"models": folder / "models", "api_keys_file": keys, "max_body_bytes": LIMIT}
    with serving(folder / "stderr", None, **settings) as running:
        yield running


@pytest.fixture(scope="package")
def pictures(site: Server, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Every flower, a corrupt file, one that is no picture; `sure` and `unsure` by what the server says."""
    folder = tmp_path_factory.mktemp("pictures")
    found: dict[str, Path] = {}
    for name in FLOWERS:
        found[name] = folder / f"{name}.jpg"
        found[name].write_bytes(encoded(draw(name)))
        best = ask(site, found[name])["predictions"][0]["probability"]
        found["sure" if best >= 0.5 else "unsure"] = found[name]
    assert {"sure", "unsure"} <= found.keys(), "the model is sure of all the flowers drawn, or of none"
    found["corrupt"] = folder / "corrupt.jpg"
    found["corrupt"].write_bytes(found["daisy"].read_bytes()[:3000])
    found["text"] = folder / "letter.txt"
    found["text"].write_text("no picture")
    return found


@pytest.fixture
def start(browser: Browser) -> Iterator[Start]:
    """Opens a page in a context of its own. In the end: nothing was asked of anybody else, nothing broke
    the page's policy, no script failed.
    """
    opened: list[BrowserContext] = []
    wrong: list[str] = []

    def start(server: Server, path: str = "/", **options: Any) -> Page:
        options = {"viewport": WIDE, "reduced_motion": "reduce", **options}
        context = browser.new_context(**options)
        opened.append(context)
        page = context.new_page()
        page.set_default_timeout(20_000)
        context.on("request", lambda request: _check(request.url, server.address))
        page.on("pageerror", lambda error: wrong.append(f"script: {error}"))
        page.on("console", lambda message: _console(message.type, message.text))
        page.goto(server.address + path)
        return page

    def _check(url: str, address: str) -> None:
        if urlsplit(url).scheme not in {"blob", "data"} and not url.startswith(f"{address}/"):
            wrong.append(f"asked {url}")

    def _console(kind: str, text: str) -> None:
        # The browser reports answers of 4xx and 5xx by itself; the page says them in words.
        expected = re.match(r"Failed to load resource: (the server responded|net::ERR_INTERNET_DIS)", text)
        if kind in {"error", "warning"} and not expected:
            wrong.append(f"{kind}: {text}")

    yield start
    for context in opened:
        context.close()
    assert not wrong
