"""Provide constants and checks for the tests of the page."""

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
LIMIT: Final = 60_000  # bytes: the largest body that the guarded server takes
Start = Callable[..., Page]


def ask(server: Server, picture: Path) -> dict[str, Any]:
    """Return the prediction for a file, asked for without the page."""
    answer: dict[str, Any] = server.client.post("/predict", files={"file": picture.read_bytes()}).json()
    return answer


def small(name: str) -> FilePayload:
    """Draw a flower as a small PNG to upload."""
    data = encoded(draw(name).resize((90, 78)), "PNG")
    return {"name": f"{name}.png", "mimeType": "image/png", "buffer": data}


def shown(label: str) -> re.Pattern[str]:
    """Return a pattern for a label as the page shows it."""
    return re.compile(re.escape(label.replace("_", " ")), re.IGNORECASE)


def check_accessible(page: Page) -> None:
    """Check the rules of axe-core (WCAG and good practice) in both themes, and that nothing overflows.

    The themes differ only in contrast, so the dark one is checked only for that.
    """
    page.evaluate(AXE)
    everything = {"resultTypes": ["violations"]}
    contrasts = everything | {"runOnly": ["color-contrast"]}
    for scheme, options in (("light", everything), ("dark", contrasts)):
        page.emulate_media(color_scheme="dark" if scheme == "dark" else "light", reduced_motion="reduce")
        violations = page.evaluate(
            "(options) => axe.run(options).then(({violations}) => violations)", options
        )
        assert not violations, scheme + json.dumps(
            [(v["id"], [(n["html"], n["failureSummary"]) for n in v["nodes"]]) for v in violations],
            indent=1,
        )
    assert page.viewport_size  # not innerWidth, which grows when a phone zooms out
    assert page.evaluate("document.documentElement.scrollWidth") <= page.viewport_size["width"]
