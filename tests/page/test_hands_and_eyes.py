"""Fingers, a keyboard alone, a narrow window, a dark room."""

from pathlib import Path

import pytest
from playwright.sync_api import expect

from tests.page.checks import NARROW, Start, check_accessible
from tests.service.server import Server


def test_narrow_with_touch(site: Server, start: Start, pictures: dict[str, Path]) -> None:
    page = start(site, viewport=NARROW, has_touch=True, is_mobile=True)
    camera = page.get_by_label("Take a photograph")
    expect(camera).to_be_visible()
    assert camera.get_attribute("capture") == "environment"
    expect(page.locator("#card h3")).to_be_visible()
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


def test_the_camera_is_offered_to_touch_alone(site: Server, start: Start) -> None:
    page = start(site)
    expect(page.locator("#card h3")).to_be_visible()
    expect(page.locator("#camera")).to_be_hidden()
    check_accessible(page)


def test_by_keyboard_alone(site: Server, start: Start, pictures: dict[str, Path]) -> None:
    page = start(site)
    page.on("filechooser", lambda chooser: chooser.set_files(pictures["sure"]))
    expect(page.locator("#files")).to_be_enabled()

    def tab_to(what: str) -> None:
        """By Tab, and every stop on the way shows that it has the focus."""
        for _ in range(12):
            page.keyboard.press("Tab")
            visible = page.evaluate(
                """() => {
                    const here = document.activeElement;
                    const outlined = here.type === "file" ? here.labels[0] : here;
                    return getComputedStyle(outlined).outlineStyle !== "none";
                }"""
            )
            assert visible, page.evaluate("document.activeElement.outerHTML")
            if page.evaluate("what => document.activeElement.matches(what)", what):
                return
        raise AssertionError(f"no way to {what}")

    tab_to("#theme")
    page.keyboard.press("Enter")
    expect(page.locator("html")).to_have_attribute("data-theme", "dark")
    tab_to("#files")
    page.keyboard.press("Enter")
    expect(page.locator(".bars li")).to_have_count(5)
    tab_to(".switch")
    page.keyboard.press("Space")
    expect(page.locator(".heat")).to_be_visible()
    tab_to(".looked select")
    tab_to(".curl button")
    page.keyboard.press("Enter")
    expect(page.locator("#say")).to_contain_text("curl line")
    tab_to(".curl pre")


@pytest.mark.parametrize("system", ["light", "dark"])
def test_the_theme_is_the_system_s_until_one_is_chosen(site: Server, start: Start, system: str) -> None:
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
