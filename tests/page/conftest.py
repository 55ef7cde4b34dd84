"""Provide Chromium, servers with the page, and pictures to upload."""

import hashlib
import re
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import onnx
import pytest
from playwright.sync_api import Browser, BrowserContext, Page, expect

from contract.manifest import METADATA_KEY, Manifest
from contract.trust import UNFAMILIARITY
from tests.page.browser import chromium
from tests.page.checks import KEY, LIMIT, WIDE, Start, ask
from tests.page.flowers import FLOWERS, draw
from tests.support.browser import NO_BROWSER, REQUIRED, find_browser
from tests.support.checkout import ROOT
from tests.support.serving.images import encoded
from tests.support.serving.server import Server, serving

MODEL: Final = ROOT / "models" / "flowers17.onnx"
# What a hostile model card could contain: markup, a script URL, an external picture.
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
expect.set_options(timeout=20_000)  # ms; the machine may be busy


@pytest.fixture(scope="package")
def require_browser() -> None:
    """Skip the tests of the page without a browser; fail them with REQUIRE_BROWSER=1, as in CI."""
    if find_browser() is None:
        if REQUIRED:
            pytest.fail(f"REQUIRE_BROWSER=1, but {NO_BROWSER}")
        pytest.skip(NO_BROWSER)


@pytest.fixture(autouse=True)
def require_browser_first(require_browser: None) -> None:
    """Check for the browser before a server is started."""


@pytest.fixture(scope="package")
def browser(require_browser: None) -> Iterator[Browser]:
    with chromium() as running:
        yield running


@pytest.fixture(scope="package")
def untrusted_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write the shipped model as a file without trust, and its card."""
    path = tmp_path_factory.mktemp("untrusted") / MODEL.name
    model = onnx.load(MODEL)
    (entry,) = (entry for entry in model.metadata_props if entry.key == METADATA_KEY)
    manifest = Manifest.from_json(entry.value)
    outputs = tuple(output for output in manifest.outputs if output.name != UNFAMILIARITY)
    entry.value = replace(manifest, outputs=outputs, trust=None).to_json()
    onnx.save(model, path)
    shutil.copy(MODEL.with_suffix(".md"), path.with_suffix(".md"))
    return path


@pytest.fixture(scope="package")
def site(untrusted_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    log = tmp_path_factory.mktemp("log") / "stderr"
    with serving(log, untrusted_model) as running:
        yield running


@pytest.fixture(scope="package")
def guarded(untrusted_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Run a server with two models, one with a hostile card; it requires a key and limits bodies."""
    folder = tmp_path_factory.mktemp("guarded")
    (folder / "models").mkdir()
    for name, card in (("first", "# A model for tests\n"), ("second", NASTY)):
        shutil.copy(untrusted_model, folder / "models" / f"{name}.onnx")
        (folder / "models" / f"{name}.md").write_text(card)
    keys = folder / "keys"
    keys.write_text(hashlib.sha256(KEY.encode()).hexdigest())
    settings = {"models": folder / "models", "api_keys_file": keys, "max_body_bytes": LIMIT}
    with serving(folder / "stderr", None, **settings) as running:
        yield running


@pytest.fixture(scope="package")
def pictures(site: Server, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Write every flower, a corrupt file and a text file.

    `sure` and `unsure` are flowers of high and low probability by the server's prediction.
    """
    folder = tmp_path_factory.mktemp("pictures")
    files: dict[str, Path] = {}
    for name in FLOWERS:
        files[name] = folder / f"{name}.jpg"
        files[name].write_bytes(encoded(draw(name)))
        best = ask(site, files[name])["predictions"][0]["probability"]
        files["sure" if best >= 0.5 else "unsure"] = files[name]
    assert {"sure", "unsure"} <= files.keys(), "the model is sure of all the flowers drawn, or of none"
    files["corrupt"] = folder / "corrupt.jpg"
    files["corrupt"].write_bytes(files["daisy"].read_bytes()[:3000])
    files["text"] = folder / "letter.txt"
    files["text"].write_text("no picture")
    return files


@pytest.fixture
def start(browser: Browser) -> Iterator[Start]:
    """Return a function that opens a page in a new browser context.

    At the end, fail if a request went to another host, the content security policy was violated, or a
    script failed.
    """
    contexts: list[BrowserContext] = []
    errors: list[str] = []

    def start(server: Server, path: str = "/", **options: Any) -> Page:
        options = {"viewport": WIDE, "reduced_motion": "reduce", **options}
        context = browser.new_context(**options)
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(20_000)
        context.on("request", lambda request: _check(request.url, server.address))
        page.on("pageerror", lambda error: errors.append(f"script: {error}"))
        page.on("console", lambda message: _console(message.type, message.text))
        page.goto(server.address + path)
        return page

    def _check(url: str, address: str) -> None:
        if urlsplit(url).scheme not in {"blob", "data"} and not url.startswith(f"{address}/"):
            errors.append(f"request to {url}")

    def _console(kind: str, text: str) -> None:
        # The browser logs 4xx and 5xx responses itself; the page shows them in words.
        expected = re.match(r"Failed to load resource: (the server responded|net::ERR_INTERNET_DIS)", text)
        if kind in {"error", "warning"} and not expected:
            errors.append(f"{kind}: {text}")

    yield start
    for context in contexts:
        context.close()
    assert not errors
