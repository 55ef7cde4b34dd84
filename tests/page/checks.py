"""What the tests of the page share."""

import json
import re
from collections.abc import Callable
from importlib.resources import files
from pathlib import Path
from typing import Any, Final

from playwright.sync_api import FilePayload, Page

from tests.page.flowers import draw
from tests.support.serving.images import encoded
from tests.support.serving.server import Server

AXE: Final = (files("axe_playwright_python") / "axe.min.js").read_text()
NARROW: Final = {"width": 360, "height": 740}
WIDE: Final = {"width": 1280, "height": 860}
KEY: Final = "the-key-of-the-tests"
LIMIT: Final = 60_000  # bytes, of the guarded server
Start = Callable[..., Page]


def ask(server: Server, picture: Path) -> dict[str, Any]:
    answer: dict[str, Any] = server.client.post("/predict", files={"file": picture.read_bytes()}).json()
    return answer


def small(name: str) -> FilePayload:
    data = encoded(draw(name).resize((90, 78)), "PNG")
    return {"name": f"{name}.png", "mimeType": "image/png", "buffer": data}


def shown(label: str) -> re.Pattern[str]:
    return re.compile(re.escape(label.replace("_", " ")), re.IGNORECASE)


def check_accessible(page: Page) -> None:
    """axe-core's rules, WCAG and good practice, in both themes, which differ in contrast alone; and nothing
    is wider than the window.
    """
    page.evaluate(AXE)
    everything = {"resultTypes": ["violations"]}
    contrasts = everything | {"runOnly": ["color-contrast"]}
    for scheme, options in (("light", everything), ("dark", contrasts)):
        page.emulate_media(color_scheme="dark" if scheme == "dark" else "light", reduced_motion="reduce")
        found = page.evaluate("(options) => axe.run(options).then(({violations}) => violations)", options)
        assert not found, scheme + json.dumps(
            [(v["id"], [(n["html"], n["failureSummary"]) for n in v["nodes"]]) for v in found], indent=1
        )
    assert page.viewport_size  # not innerWidth, which grows on a phone that zooms out to show all
    assert page.evaluate("document.documentElement.scrollWidth") <= page.viewport_size["width"]
