"""Test the page with several pictures: the grid, sorting, and the CSV download."""

import csv
import io
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import cast

import httpx
import pytest
from playwright.sync_api import Browser, FilePayload, Page, expect

from alexnet_client.schemas import PredictResponse, Problem
from service.cli.output import csv_rows
from tests.page.checks import Start, ask, check_accessible, shown, small
from tests.support.serving.server import Server


def test_several_pictures_are_shown_as_a_grid(
    site: Server, start: Start, pictures: dict[str, Path]
) -> None:
    chosen = [
        pictures[name] for name in ("daisy", "corrupt", "unsure", "sunflower", "bluebell", "dandelion")
    ]
    page = start(site)
    requests: list[str] = []
    page.on("request", lambda request: requests.append(request.url) if "/predict" in request.url else None)
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
    answers = [ask(site, picture)["predictions"][0] for picture in chosen if picture != pictures["corrupt"]]
    counts = Counter(answer["label"].replace("_", " ") for answer in answers)
    unsure = sum(answer["probability"] < 0.5 for answer in answers)
    expect(page.locator("#summary li")).to_have_text(
        [f"{counts[label]} {label}" for label in sorted(counts, key=lambda label: (-counts[label], label))]
        + [f"{unsure} of them unsure", "1 failed"]
    )
    expect(page.locator("#gallery-limit")).to_contain_text("It chooses among 17 classes.")
    assert len(requests) == 6
    check_accessible(page)

    tiles.nth(3).get_by_role("button").press("Enter")
    expect(page.locator("#answer")).to_be_focused()
    expect(page.locator(".bars li")).to_have_count(5)
    check_accessible(page)
    page.get_by_role("button", name="All pictures").click()
    expect(tiles.nth(3).get_by_role("button")).to_be_focused()
    assert len(requests) == 6, "known predictions are not requested again"


# In the order of selection: names that a spreadsheet would take for formulas, and names that CSV quotes.
NAMES = {
    "=HYPERLINK(1).png": "daisy",
    "10.png": "sunflower",
    "9.png": "red",
    "+1.png": "violet",
    "-1.png": "bluebell",
    "@a.png": "dandelion",
    " =1.png": "daisy",
    'ö "a, b"; c.png': "daisy",
    "broken.png": "",
}


def test_several_pictures_are_sorted_and_downloaded(site: Server, start: Start) -> None:
    files: list[FilePayload] = [
        {**small(flower), "name": name}
        if flower
        else {"name": name, "mimeType": "image/png", "buffer": b"no picture"}
        for name, flower in NAMES.items()
    ]
    page = start(site)
    page.set_input_files("#files", files)
    expect(page.get_by_role("button", name="Download CSV")).to_be_enabled()

    def names() -> list[str]:
        return cast(
            list[str], page.locator(".tile .file").evaluate_all("all => all.map((name) => name.title)")
        )

    answers = {file["name"]: site.client.post("/predict", files={"file": file["buffer"]}) for file in files}
    best = {name: reply.json()["predictions"][0] for name, reply in answers.items() if reply.is_success}
    assert names() == list(NAMES)
    order = page.get_by_role("combobox", name="Sort by")
    order.select_option("probability")
    by_probability = sorted(best, key=lambda name: -best[name]["probability"])
    assert names() == [*by_probability, "broken.png"]
    order.select_option("class")
    assert names() == [*sorted(by_probability, key=lambda name: best[name]["label"]), "broken.png"]
    order.select_option("name")
    assert names().index("9.png") < names().index("10.png") < names().index("broken.png")

    order.select_option("chosen")
    escaped = {name: f"'{name}" if name.strip()[0] in "=+-@" else name for name in NAMES}
    assert rows(downloaded(page)) == expected({escaped[name]: answers[name] for name in NAMES})


@pytest.mark.parametrize(
    "text", ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1", " =1", "\u2003=1", "\uff1d1+1", "\uff20a"]
)
def test_no_csv_cell_is_a_formula(csv_page: Page, text: str) -> None:
    """Labels come from a model file, and errors from the server, so neither is trusted."""
    prediction = {"label": text, "index": 1, "probability": 0.5}
    items = [
        {"file": {"name": text}, "answer": {"predictions": [prediction], "set": [text]}},
        {"file": {"name": text}, "trouble": {"detail": text}},
    ]
    written = csv_page.evaluate(
        "async (items) => (await import('/static/csv.js')).csv(items)", items
    ).removeprefix("\ufeff")
    assert list(csv.reader(io.StringIO(written, newline=""), strict=True))[1:] == [
        [f"'{text}", "1", f"'{text}", "1", "0.5", "", "", "", f"'{text}"],
        [f"'{text}", "", "", "", "", f"'{text}", "", "", ""],
    ]


@pytest.fixture(scope="module")
def csv_page(site: Server, browser: Browser) -> Iterator[Page]:
    """Open a page without scripts of its own."""
    with browser.new_context() as context:
        page = context.new_page()
        page.goto(site.address + "/static/favicon.svg")
        yield page


def downloaded(page: Page) -> bytes:
    with page.expect_download() as download:
        page.get_by_role("button", name="Download CSV").click()
    assert download.value.suggested_filename == "predictions.csv"
    return download.value.path().read_bytes()


def rows(data: bytes) -> list[list[str | float]]:
    assert data.startswith(b"\xef\xbb\xbffile,")
    text = data.decode("utf-8-sig")
    assert text.endswith("\r\n")
    assert text.count("\n") == text.count("\r\n"), "RFC 4180"
    return _numbers(csv.reader(io.StringIO(text), strict=True))


def expected(answers: dict[str, httpx.Response]) -> list[list[str | float]]:
    """Return the rows that `python -m service predict --format csv` writes."""
    out = io.StringIO()
    write = csv_rows(out, list(answers))
    for name, answer in answers.items():
        kind = PredictResponse if answer.is_success else Problem
        write(name, kind.model_validate(answer.json()))
    return _numbers(csv.reader(out.getvalue().splitlines()))


def _numbers(lines: Iterable[list[str]]) -> list[list[str | float]]:
    """Convert numbers, because Python writes 1e-07 and 1.0 where JavaScript writes 1e-7 and 1."""
    head, *body = lines
    at = {head.index("probability"), head.index("unfamiliarity")}
    numbers: list[list[str | float]] = [[*head]]
    return numbers + [
        [float(cell) if place in at and cell else cell for place, cell in enumerate(row)] for row in body
    ]
