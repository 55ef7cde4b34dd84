"""Take the screenshots docs/page-*.png: python -m tests.page.screenshots.

They show the page, the server and the model of this checkout, with flowers drawn by flowers.py. The page
asks for the typefaces Palatino and Inter (on Debian fonts-urw-base35 and fonts-inter); without them it
falls back.
"""

import io
import tempfile
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

from PIL import Image
from playwright.sync_api import Browser, Page, expect

from service.http.page import STATIC
from tests.page.browser import chromium
from tests.page.checks import ask
from tests.page.flowers import draw
from tests.support.checkout import ROOT
from tests.support.serving.images import encoded
from tests.support.serving.server import Server, serving

DOCS = ROOT / "docs"
MODEL = ROOT / "models" / "flowers17.onnx"
MAX_FULL_COLOUR_BYTES = 150_000  # a larger file is reduced to 256 colours
WIDE: dict[str, Any] = {"viewport": {"width": 1280, "height": 860}}
NARROW: dict[str, Any] = {"viewport": {"width": 360, "height": 740}, "has_touch": True, "is_mobile": True}


def main() -> None:
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        names = ("sunflower", "daisy", "dandelion", "bluebell", "violet", "red")
        flowers = [folder / f"{name}.jpg" for name in names]
        for path in flowers:
            path.write_bytes(encoded(draw(path.stem), quality=92))
        # Flowers of which the model may be unsure: each drawing mixed with the next.
        mixed = [folder / f"{first.stem}-{second.stem}.jpg" for first, second in pairwise(flowers)]
        for path in mixed:
            first, second = map(draw, path.stem.split("-"))
            path.write_bytes(encoded(Image.blend(first, second, 0.5), quality=92))
        corrupt = folder / "holiday.jpg"
        corrupt.write_bytes(flowers[1].read_bytes()[:9000])
        with (
            serving(folder / "log", MODEL) as server,
            chromium() as browser,
        ):
            page = opened(browser, server, "light", WIDE)
            save(page, "start")
            sure, other = (first_of(flowers[n:], server, is_sure) for n in (0, 1))
            page.set_input_files("#files", sure)
            page.wait_for_selector(".bars")
            save(page, "answer")
            page.set_input_files("#files", first_of([*reversed(flowers), *mixed], server, is_unsure))
            page.wait_for_selector(".hint")
            save(page, "unsure")

            unknown = first_of([STATIC / "cat.jpg", STATIC / "rocket.jpg"], server, is_unknown)
            page.set_input_files("#files", unknown)
            page.wait_for_selector(".nearest")
            save(page, "unknown")

            page.set_input_files("#files", [*flowers, unknown, corrupt])
            expect(page.locator(".tile .pending")).to_have_count(0)
            save(page, "several")
            page.set_input_files("#files", corrupt)
            page.wait_for_selector(".answer.small")
            save(page, "error")
            page.get_by_text("Model card").click()
            page.evaluate("scrollTo(0, document.getElementById('about').offsetTop - 20)")
            save(page, "model")

            page = opened(browser, server, "dark", WIDE)
            page.set_input_files("#files", other)
            page.get_by_role("switch").click()
            page.wait_for_selector(".heat")
            save(page, "heat-map")

            page = opened(browser, server, "light", NARROW)
            page.set_input_files("#files", sure)
            page.wait_for_selector(".bars")
            save(page, "narrow")


def is_unknown(answer: dict[str, Any]) -> bool:
    return answer.get("known") is False


def is_sure(answer: dict[str, Any]) -> bool:
    return not is_unknown(answer) and bool(answer["predictions"][0]["probability"] >= 0.5)


def is_unsure(answer: dict[str, Any]) -> bool:
    return not is_unknown(answer) and not is_sure(answer)


def first_of(pictures: list[Path], server: Server, wanted: Callable[[dict[str, Any]], bool]) -> Path:
    """Return the first picture whose answer is `wanted`. Raises SystemExit if there is none."""
    for path in pictures:
        if wanted(ask(server, path)):
            return path
    raise SystemExit(f"{wanted.__name__}: no answer of the model to {', '.join(p.name for p in pictures)}")


def opened(browser: Browser, server: Server, scheme: Any, options: dict[str, Any]) -> Page:
    context = browser.new_context(color_scheme=scheme, reduced_motion="reduce", **options)
    page = context.new_page()
    page.goto(server.address)
    page.wait_for_selector("#facts dd")
    page.wait_for_load_state("networkidle")  # until the filters are loaded
    return page


def save(page: Page, name: str) -> None:
    page.evaluate("Promise.allSettled([...document.images].map((image) => image.decode()))")
    image = Image.open(io.BytesIO(page.screenshot())).convert("RGB")
    path = DOCS / f"page-{name}.png"
    image.save(path, optimize=True)
    if path.stat().st_size > MAX_FULL_COLOUR_BYTES:
        image.quantize(256, Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE).save(path, optimize=True)
    print(f"{path.relative_to(ROOT)}: {path.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
