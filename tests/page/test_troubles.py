"""Test that the page explains errors and what to do about them."""

from pathlib import Path

from playwright.sync_api import Route, expect

from tests.page.checks import Start, check_accessible
from tests.support.serving.images import PNG_HEADER_OF_10_GIGAPIXELS
from tests.support.serving.server import Server


def test_corrupt_picture(site: Server, start: Start, pictures: dict[str, Path]) -> None:
    page = start(site)
    page.set_input_files("#files", pictures["corrupt"])
    expect(page.locator("#answer")).to_have_text("This picture is damaged")
    expect(page.locator("#result")).to_contain_text("Save or download it once more.")
    expect(page.locator("#say")).to_contain_text("damaged")
    check_accessible(page)

    page.set_input_files("#files", pictures["daisy"])
    expect(page.locator(".bars li")).to_have_count(5)


def test_file_that_is_not_a_picture(site: Server, start: Start, pictures: dict[str, Path]) -> None:
    page = start(site)
    page.set_input_files("#files", pictures["text"])
    expect(page.locator("#answer")).to_have_text("This is no picture that the server can read")
    expect(page.locator("#result")).to_contain_text("Save it as JPEG or PNG first.")
    expect(page.locator(".frame")).to_contain_text("cannot be shown")
    check_accessible(page)


def test_too_many_pixels(site: Server, start: Start, tmp_path: Path) -> None:
    (tmp_path / "huge.png").write_bytes(PNG_HEADER_OF_10_GIGAPIXELS)
    page = start(site)
    page.set_input_files("#files", tmp_path / "huge.png")
    expect(page.locator("#answer")).to_have_text("This picture is too large")
    expect(page.locator("#result")).to_contain_text("100000x100000")
    expect(page.locator("#result")).to_contain_text("Choose a smaller copy of it.")


def test_page_recovers_when_the_server_returns(
    site: Server, start: Start, pictures: dict[str, Path]
) -> None:
    page = start(site)
    expect(page.locator("#files")).to_be_enabled()
    page.context.set_offline(True)
    page.set_input_files("#files", pictures["daisy"])
    expect(page.locator("#answer")).to_have_text("The server cannot be reached")
    page.context.set_offline(False)
    page.get_by_role("button", name="Try again").click()
    expect(page.locator(".bars li")).to_have_count(5)


def test_request_is_repeated_after_429(site: Server, start: Start, pictures: dict[str, Path]) -> None:
    refused: list[bool] = []

    def fail_once(route: Route) -> None:
        if refused:
            route.continue_()
        else:
            refused.append(True)
            route.fulfill(status=429, headers={"Retry-After": "1"}, json={"code": "overloaded"})

    page = start(site)
    page.route("**/predict", fail_once)
    page.set_input_files("#files", pictures["daisy"])
    expect(page.locator(".kicker")).to_have_text("The server is busy; asking again in 1 s.")
    expect(page.locator(".bars li")).to_have_count(5)
