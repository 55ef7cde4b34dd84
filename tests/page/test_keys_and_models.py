"""Test the page of a server that requires a key and has two models, one with a hostile card."""

import re

import pytest
from playwright.sync_api import Page, Route, expect

from tests.page.checks import KEY, LIMIT, Start, check_accessible, small
from tests.support.serving.server import Server


def test_key_is_requested_and_stored_in_the_tab(guarded: Server, start: Start) -> None:
    page = start(guarded)
    field = page.get_by_label("API key")
    expect(field).to_be_visible()
    expect(page.locator("#drop")).to_be_hidden()
    check_accessible(page)

    field.fill("schlüssel")
    field.press("Enter")
    expect(page.locator("#key-wrong")).to_contain_text("accents")
    field.fill("a wrong one")
    field.press("Enter")
    expect(page.locator("#key-wrong")).to_contain_text("does not know this key")
    check_accessible(page)

    field.fill(KEY)
    page.get_by_role("button", name="Use this key").click()
    expect(field).to_be_hidden()
    expect(page.locator("#files")).to_be_focused()
    assert page.evaluate("[sessionStorage.length, JSON.stringify(localStorage), document.cookie]") == [
        1,
        "{}",
        "",
    ]

    page.locator("#files").set_input_files(small("daisy"))
    expect(page.locator(".bars li")).to_have_count(5)
    line = page.locator(".curl code").inner_text()
    assert '"Authorization: Bearer $API_KEY"' in line
    assert KEY not in page.content()

    page.get_by_role("button", name="Forget key").click()
    expect(field).to_be_visible()
    expect(page.locator("#result")).to_be_hidden()
    assert page.evaluate("sessionStorage.length") == 0


@pytest.fixture
def authorized_page(guarded: Server, start: Start) -> Page:
    page = start(guarded)
    page.get_by_label("API key").fill(KEY)
    page.get_by_label("API key").press("Enter")
    expect(page.locator("#files")).to_be_enabled()
    return page


def test_filters_of_the_first_layer_are_shown(authorized_page: Page) -> None:
    """The picture needs a key, so that a plain image URL would not load it."""
    authorized_page.get_by_text("Model card").click()
    picture = authorized_page.get_by_role("img", name=re.compile("first convolution"))
    expect(picture).to_be_visible()
    assert picture.evaluate("image => image.naturalWidth") > 0
    check_accessible(authorized_page)


def test_file_above_the_limit_is_not_sent(authorized_page: Page) -> None:
    requests: list[str] = []
    authorized_page.on("request", lambda request: requests.append(request.url))
    authorized_page.set_input_files(
        "#files", {"name": "a.jpg", "mimeType": "image/jpeg", "buffer": bytes(LIMIT + 1)}
    )
    expect(authorized_page.locator("#answer")).to_have_text("This file is too large")
    expect(authorized_page.locator("#result")).to_contain_text("the server takes 60 kB at most")
    assert not [url for url in requests if "/predict" in url]


def test_chosen_model_answers(authorized_page: Page) -> None:
    choice = authorized_page.get_by_role("combobox", name="Model")
    expect(choice.locator("option")).to_have_text(["first", "second"])
    picture = small("red")
    choice.select_option("second")
    with authorized_page.expect_request(re.compile(r"/predict\?model=second$")):
        authorized_page.set_input_files("#files", picture)
    with authorized_page.expect_request(re.compile(r"/predict\?model=first$")):
        choice.select_option("first")
    expect(authorized_page.locator("#card")).to_have_text("A model for tests")
    expect(authorized_page.locator(".curl code")).to_contain_text("/predict?model=first'")
    check_accessible(authorized_page)


def test_default_model_is_selected_and_a_choice_survives_a_reload(guarded: Server, start: Start) -> None:
    def default_is_second(route: Route) -> None:
        health = route.fetch().json()
        health["model"] |= {"name": "second"}
        route.fulfill(json=health)

    page = start(guarded, "/static/favicon.svg")
    page.route("**/health", default_is_second)
    page.goto(guarded.address + "/")
    page.get_by_label("API key").fill(KEY)
    page.get_by_label("API key").press("Enter")
    choice = page.get_by_role("combobox", name="Model")
    expect(choice.locator("option:checked")).to_have_text("second")
    expect(page.locator("#about-title")).to_contain_text("second")
    choice.select_option("first")
    page.reload()
    expect(page.locator("#about-title")).to_contain_text("first")
    expect(choice.locator("option:checked")).to_have_text("first")


def test_markup_in_a_card_is_shown_as_text(authorized_page: Page) -> None:
    authorized_page.get_by_role("combobox", name="Model").select_option("second")
    authorized_page.get_by_text("Model card").click()
    card = authorized_page.locator("#card")
    expect(card.locator("h3")).to_have_text("""Card <img src=x onerror="document.title='broken'">""")
    expect(card).to_contain_text('<script>document.title = "broken"</script>')
    assert card.locator("script, img, i, u, b").count() == 0
    assert [a.get_attribute("href") for a in card.locator("a").all()] == ["https://example.org/a"]
    expect(card.locator("li")).to_have_text(["one", "two <i>"])
    expect(card.locator("th")).to_have_text(["kind", "right"])
    expect(card.locator("td")).to_have_text(["<u>a</u>", "9 %"])
    expect(card.locator("pre")).to_have_text("curl <b>")
    expect(card.locator("strong")).to_have_text("strong")
    assert "broken" not in authorized_page.title()
    check_accessible(authorized_page)
