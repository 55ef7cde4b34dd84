"""Test the page by touch, by keyboard, in a narrow window and in dark mode."""

import io
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import expect

from tests.page.checks import NARROW, Start, check_accessible
from tests.support.serving.server import Server


def test_narrow_window_with_touch(site: Server, start: Start, pictures: dict[str, Path]) -> None:
    page = start(site, viewport=NARROW, has_touch=True, is_mobile=True)
    camera = page.get_by_label("Take a photograph")
    expect(camera).to_be_visible()
    assert camera.get_attribute("capture") == "environment"
    expect(page.locator("#facts dd")).to_have_count(3)
    check_accessible(page)

    camera.set_input_files(pictures["sure"])
    expect(page.locator(".bars li")).to_have_count(5)
    answer = page.locator("#answer").bounding_box()
    assert answer
    assert answer["y"] + answer["height"] < NARROW["height"], "seen without scrolling"
    check_accessible(page)
    for control in page.locator("button:visible, select:visible, .pick:visible").all():
        box = control.bounding_box()
        assert box
        assert min(box["width"], box["height"]) >= 24, "WCAG 2.2, target size"

    page.set_input_files("#files", [pictures["daisy"], pictures["corrupt"], pictures["unsure"]])
    expect(page.locator(".tile .value")).to_have_count(2)
    check_accessible(page)


def test_camera_is_offered_only_with_touch(site: Server, start: Start) -> None:
    page = start(site)
    expect(page.locator("#facts dd")).to_have_count(3)
    expect(page.locator("#camera")).to_be_hidden()
    check_accessible(page)


def test_page_is_usable_by_keyboard(site: Server, start: Start, pictures: dict[str, Path]) -> None:
    page = start(site)
    page.on("filechooser", lambda chooser: chooser.set_files(pictures["sure"]))
    expect(page.locator("#files")).to_be_enabled()

    def tab_to(selector: str) -> None:
        """Press Tab until `selector` has the focus; every stop must show its focus."""
        for _ in range(12):
            page.keyboard.press("Tab")
            visible = page.evaluate(
                """() => {
                    const focused = document.activeElement;
                    const outlined = focused.type === "file" ? focused.labels[0] : focused;
                    return getComputedStyle(outlined).outlineStyle !== "none";
                }"""
            )
            assert visible, page.evaluate("document.activeElement.outerHTML")
            if page.evaluate("selector => document.activeElement.matches(selector)", selector):
                return
        raise AssertionError(f"Tab does not reach {selector}")

    tab_to("#theme")
    page.keyboard.press("Enter")
    expect(page.locator("html")).to_have_attribute("data-theme", "dark")
    tab_to("#examples button")
    page.keyboard.press("Enter")
    expect(page.locator("#answer")).to_have_text("sunflower")
    page.locator("#theme").focus()
    tab_to("#files")
    page.keyboard.press("Enter")
    expect(page.locator(".file")).to_have_text(pictures["sure"].name)
    expect(page.locator(".bars li")).to_have_count(5)
    tab_to(".switch")
    page.keyboard.press("Space")
    expect(page.locator(".heat")).to_be_visible()
    tab_to(".crop-controls select")
    tab_to(".curl button")
    page.keyboard.press("Enter")
    expect(page.locator("#say")).to_contain_text("curl line")
    tab_to(".curl pre")


@pytest.mark.parametrize("system", ["light", "dark"])
def test_theme_follows_the_system_until_one_is_chosen(site: Server, start: Start, system: str) -> None:
    page = start(site, color_scheme=system)
    other = {"light": "dark", "dark": "light"}[system]
    papers = {"light": "rgb(251, 250, 246)", "dark": "rgb(21, 22, 19)"}
    expect(page.locator("body")).to_have_css("background-color", papers[system])
    button = page.get_by_role("button", name="Dark theme")
    expect(button).to_have_attribute("aria-pressed", str(system == "dark").lower())
    button.click()
    expect(page.locator("body")).to_have_css("background-color", papers[other])
    page.reload()
    expect(page.locator("body")).to_have_css("background-color", papers[other])


def test_portrait_and_its_first_prediction_fit_on_a_phone(
    site: Server, start: Start, pictures: dict[str, Path], tmp_path: Path
) -> None:
    page = start(site, viewport={"width": 360, "height": 640}, has_touch=True, is_mobile=True)
    for name in ("sure", "unsure"):
        with Image.open(pictures[name]) as flower:
            flower.resize((300, 800)).save(tmp_path / f"{name}.png")
        page.set_input_files("#files", tmp_path / f"{name}.png")
        expect(page.locator(".file")).to_have_text(f"{name}.png")
        expect(page.locator(".bars li")).to_have_count(5)
        for width, height in ((360, 640), (390, 844)):
            page.set_viewport_size({"width": width, "height": height})
            for part in (".photo", "#answer", ".limit:visible", ".bars li:first-child"):
                box = page.locator(part).bounding_box()
                assert box
                assert box["y"] >= 0
                assert box["y"] + box["height"] <= height, (name, width, part)


def test_tiles_have_equal_sizes(
    site: Server, start: Start, pictures: dict[str, Path], tmp_path: Path
) -> None:
    """Test labels of one and two lines, an error message, and a long name without spaces."""
    shutil.copy(pictures["unsure"], tmp_path / f"{'long' * 40}.jpg")
    chosen = [pictures["daisy"], tmp_path / f"{'long' * 40}.jpg", pictures["corrupt"], pictures["text"]]
    page = start(site, viewport={"width": 360, "height": 640}, has_touch=True, is_mobile=True)
    page.set_input_files("#files", chosen)
    expect(page.locator("#gallery")).to_be_visible()
    expect(page.locator("#progress")).to_be_hidden()
    sizes = page.locator(".open").evaluate_all(
        "all => all.map((tile) => tile.getBoundingClientRect()).map(({width, height}) => [width, height])"
    )
    assert len(sizes) == 4
    assert np.ptp(sizes, axis=0) == pytest.approx([0, 0], abs=0.5)
    overflowing = """all => all.filter((part) => {
        const tile = part.closest(".open").getBoundingClientRect(), box = part.getBoundingClientRect();
        return box.left < tile.left || box.right > tile.right || box.bottom > tile.bottom;
    }).length"""
    assert page.locator(".open *").evaluate_all(overflowing) == 0
    check_accessible(page)


# How far the text of each control is off its centre, in pixels.
OFF_CENTRE = """() => [...document.querySelectorAll(".pick label, .solid, .quiet:not(#theme)")]
  .filter((control) => control.checkVisibility())
  .map((control) => {
    const text = document.createRange();
    text.selectNodeContents(control);
    const [inner, outer] = [text.getBoundingClientRect(), control.getBoundingClientRect()];
    return [control.textContent, (inner.left + inner.right - outer.left - outer.right) / 2,
      (inner.top + inner.bottom - outer.top - outer.bottom) / 2];
  })"""


def test_text_of_buttons_is_centred(site: Server, start: Start, pictures: dict[str, Path]) -> None:
    page = start(site, viewport=NARROW, has_touch=True, is_mobile=True)
    expect(page.locator("#files")).to_be_enabled()
    controls = page.evaluate(OFF_CENTRE)
    page.set_input_files("#files", [pictures["daisy"], pictures["corrupt"]])
    expect(page.locator("#gallery")).to_be_visible()
    expect(page.locator("#progress")).to_be_hidden()
    controls += page.evaluate(OFF_CENTRE)
    page.locator(".open").first.click()
    controls += page.evaluate(OFF_CENTRE)
    assert {"Choose pictures", "Take a photograph", "Download CSV", "← All pictures", "Copy"} <= {
        text for text, _, _ in controls
    }
    for text, across, down in controls:
        assert (across, down) == pytest.approx((0, 0), abs=1), text


def test_scrollable_code_has_a_shadow(site: Server, start: Start) -> None:
    """A shadow marks the side with more text, and disappears at that end."""
    page = start(site, viewport=NARROW, has_touch=True, is_mobile=True)
    page.get_by_text("Model card").click()
    code = page.locator("#card pre")
    expect(code).to_have_attribute("tabindex", "0")
    assert code.evaluate("code => code.scrollWidth > code.clientWidth")

    def sides() -> tuple[int, int]:
        """Return how much darker the left and right end below the text are than its middle, of 255."""
        code.scroll_into_view_if_needed()
        with Image.open(io.BytesIO(code.screenshot())) as image:
            strip = np.asarray(image.convert("L"), dtype=int)[-10]
        middle = strip[len(strip) // 2]
        return abs(strip[1] - middle), abs(strip[-2] - middle)

    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme="dark" if scheme == "dark" else "light")
        code.evaluate("code => code.scrollTo(0, 0)")
        left, right = sides()
        assert left < 3, scheme
        assert right > 20, scheme
        code.evaluate("code => code.scrollTo(code.scrollWidth, 0)")
        left, right = sides()
        assert left > 20, scheme
        assert right < 3, scheme
