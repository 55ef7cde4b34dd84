"""A server that wants a key, has two models, and a card that tries things."""

import re

import pytest
from playwright.sync_api import Page, Route, expect

from tests.page.checks import KEY, LIMIT, Start, check_accessible, small
from tests.support.serving.server import Server


def test_a_key_is_asked_for_and_kept_in_the_tab(guarded: Server, start: Start) -> None:
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
def admitted(guarded: Server, start: Start) -> Page:
    page = start(guarded)
    page.get_by_label("API key").fill(KEY)
    page.get_by_label("API key").press("Enter")
    expect(page.locator("#files")).to_be_enabled()
    return page


def test_the_filters_of_the_first_layer(admitted: Page) -> None:
    """With a key: an address alone, as of a plain picture, would not get them."""
    admitted.get_by_text("Model card").click()
    picture = admitted.get_by_role("img", name=re.compile("first convolution"))
    expect(picture).to_be_visible()
    assert picture.evaluate("image => image.naturalWidth") > 0
    check_accessible(admitted)


def test_a_file_above_the_limit_is_not_sent(admitted: Page) -> None:
    asked: list[str] = []
    admitted.on("request", lambda request: asked.append(request.url))
    admitted.set_input_files(
        "#files", {"name": "a.jpg", "mimeType": "image/jpeg", "buffer": bytes(LIMIT + 1)}
    )
    expect(admitted.locator("#answer")).to_have_text("This file is too large")
    expect(admitted.locator("#result")).to_contain_text("the server takes 60 kB at most")
    assert not [url for url in asked if "/predict" in url]


def test_a_model_is_chosen(admitted: Page) -> None:
    choice = admitted.get_by_role("combobox", name="Model")
    expect(choice.locator("option")).to_have_text(["first", "second"])
    picture = small("red")
    choice.select_option("second")
    with admitted.expect_request(re.compile(r"/predict\?model=second$")):
        admitted.set_input_files("#files", picture)
    with admitted.expect_request(re.compile(r"/predict\?model=first$")):
        choice.select_option("first")
    expect(admitted.locator("#card")).to_have_text("A model for tests")
    expect(admitted.locator(".curl code")).to_contain_text("/predict?model=first'")
    check_accessible(admitted)


def test_the_model_of_health_is_chosen_at_first_and_a_choice_outlives_a_reload(
    guarded: Server, start: Start
) -> None:
    def second_first(route: Route) -> None:
        health = route.fetch().json()
        health["model"] |= {"name": "second"}
        route.fulfill(json=health)

    page = start(guarded, "/static/favicon.svg")
    page.route("**/health", second_first)
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


def test_a_card_is_text_whatever_it_says(admitted: Page) -> None:
    admitted.get_by_role("combobox", name="Model").select_option("second")
    admitted.get_by_text("Model card").click()
    card = admitted.locator("#card")
    expect(card.locator("h3")).to_have_text("""Card <img src=x onerror="document.title='broken'">""")
    expect(card).to_contain_text('<script>document.title = "broken"</script>')
    assert card.locator("script, img, i, u, b").count() == 0
    assert [a.get_attribute("href") for a in card.locator("a").all()] == ["https://example.org/a"]
    expect(card.locator("li")).to_have_text(["one", "two <i>"])
    expect(card.locator("th")).to_have_text(["kind", "right"])
    expect(card.locator("td")).to_have_text(["<u>a</u>", "9 %"])
    expect(card.locator("pre")).to_have_text("curl <b>")
    expect(card.locator("strong")).to_have_text("strong")
    assert "broken" not in admitted.title()
    check_accessible(admitted)
