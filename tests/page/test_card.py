"""Test model cards that are made to keep the browser busy, or to crash the Markdown renderer."""

import pytest
from playwright.sync_api import Page, expect

from tests.page.checks import Start
from tests.support.serving.server import Server

# Of a million characters, rendering in quadratic time does not end before `expect` times out; rendering in
# linear time takes about a second.
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
# Not awaited, because Playwright has no time limit for an evaluation while the page is busy.
DRAW = """async (text) => {
  const { render } = await import("/static/markdown.js");
  setTimeout(() => { document.body.dataset.drawn = render(text).querySelectorAll("*").length; });
}"""


@pytest.fixture
def page(site: Server, start: Start) -> Page:
    return start(site)


def drawn(page: Page, text: str) -> int:
    """Render a card; return the number of its elements."""
    page.evaluate(DRAW, text)
    body = page.locator("body[data-drawn]")
    expect(body).to_be_attached()
    return int(body.get_attribute("data-drawn") or "")


@pytest.mark.parametrize("name", REPEATED)
def test_long_card_is_rendered_in_linear_time(page: Page, name: str) -> None:
    part = REPEATED[name]
    assert drawn(page, part * (1_000_000 // len(part))) > 0


@pytest.mark.parametrize(
    "text", ["# a\u2028b", "# \u2028", "|\n", "- \u2029", "```", "|" * 200_000, "*a*" * 200_000]
)
def test_card_of_unusual_lines_is_rendered(page: Page, text: str) -> None:
    assert drawn(page, text) > 0


def test_wide_table_shows_only_its_first_columns(page: Page) -> None:
    assert drawn(page, "|" + "a|" * 1000) == len(("div", "table", "tbody", "tr")) + 50
