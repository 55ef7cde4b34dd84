"""Cards that are made to keep the browser busy, or to end the script that draws them."""

import pytest
from playwright.sync_api import Page, expect

from tests.page.checks import Start
from tests.support.serving.server import Server

# Of a million characters what takes time in the square of them is not drawn before `expect` gives up, and
# what takes time in proportion is there in a second.
REPEATED = {
    "open brackets": "[",
    "open links": "[a](",
    "half links": "[a](b",
    "open emphasis": "*a ",
    "open strong": "**a",
    "open code": "`a",
    "emphasis": "*a*",
    "list": "- a\n",
    "fences": "```\n",
    "headings": "# a\n",
    "columns": "|",
    "paragraphs": "a\n\n",
}
# Not awaited: what the page is asked while its script is busy has no time limit.
DRAW = """async (text) => {
  const { render } = await import("/static/markdown.js");
  setTimeout(() => { document.body.dataset.drawn = render(text).querySelectorAll("*").length; });
}"""


@pytest.fixture
def page(site: Server, start: Start) -> Page:
    return start(site)


def drawn(page: Page, text: str) -> int:
    """Count the elements that the card becomes."""
    page.evaluate(DRAW, text)
    body = page.locator("body[data-drawn]")
    expect(body).to_be_attached()
    return int(body.get_attribute("data-drawn") or "")


@pytest.mark.parametrize("name", REPEATED)
def test_a_long_card_is_drawn_in_time_proportional_to_its_length(page: Page, name: str) -> None:
    part = REPEATED[name]
    assert drawn(page, part * (1_000_000 // len(part))) > 0


@pytest.mark.parametrize(
    "text", ["# a\u2028b", "# \u2028", "|\n", "- \u2029", "```", "|" * 200_000, "*a*" * 200_000]
)
def test_a_card_of_odd_lines_is_drawn(page: Page, text: str) -> None:
    assert drawn(page, text) > 0


def test_a_wide_table_has_its_first_columns_only(page: Page) -> None:
    assert drawn(page, "|" + "a|" * 1000) == len(("div", "table", "tbody", "tr")) + 50
