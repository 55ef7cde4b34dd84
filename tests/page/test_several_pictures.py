"""Several pictures at once."""

from pathlib import Path

from playwright.sync_api import expect

from tests.page.checks import Start, ask, check_accessible, shown
from tests.service.server import Server


def test_several_pictures_make_a_grid(site: Server, start: Start, pictures: dict[str, Path]) -> None:
    chosen = [
        pictures[name] for name in ("daisy", "corrupt", "unsure", "sunflower", "bluebell", "dandelion")
    ]
    page = start(site)
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url) if "/predict" in request.url else None)
    page.set_input_files("#files", chosen)
    tiles = page.locator(".tile")
    expect(tiles).to_have_count(6)
    expect(page.locator(".tile .value")).to_have_count(5)
    for tile, picture in zip(tiles.all(), chosen, strict=True):
        expect(tile).to_contain_text(picture.name)
        if picture != pictures["corrupt"]:
            expect(tile).to_contain_text(shown(ask(site, picture)["predictions"][0]["label"]))
    expect(tiles.nth(1)).to_contain_text("This picture is damaged")
    expect(tiles.nth(2)).to_contain_text("unsure")
    expect(page.locator("#say")).to_contain_text("5 of 6 pictures answered, 1 not")
    expect(page.locator("#progress")).to_be_hidden()
    assert len(asked) == 6
    check_accessible(page)

    tiles.nth(3).get_by_role("button").press("Enter")
    expect(page.locator("#answer")).to_be_focused()
    expect(page.locator(".bars li")).to_have_count(5)
    check_accessible(page)
    page.get_by_role("button", name="All pictures").click()
    expect(tiles.nth(3).get_by_role("button")).to_be_focused()
    assert len(asked) == 6, "what is known is not asked again"
