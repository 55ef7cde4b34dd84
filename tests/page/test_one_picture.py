"""Test the page with one picture: ways to upload it, the prediction and its explanation."""

import json
import re
import subprocess
from pathlib import Path

import pytest
from playwright.sync_api import Route, expect

from tests.page.checks import Start, ask, check_accessible, shown
from tests.page.flowers import draw
from tests.support.checkout import ROOT
from tests.support.serving.images import encoded
from tests.support.serving.server import Server

LIMIT_OF_17 = "It chooses among 17 classes. A picture of anything else gets the nearest of them."


def test_picture_is_selected_as_a_file(site: Server, start: Start, pictures: dict[str, Path]) -> None:
    page = start(site)
    expect(page.locator("#lead")).to_contain_text("17 classes")
    expect(page.locator("#lead")).to_contain_text("lily of the valley")
    page.set_input_files("#files", pictures["sure"])
    answer = ask(site, pictures["sure"])
    first, second = answer["predictions"][:2]

    expect(page.locator("#answer")).to_have_text(shown(first["label"]))
    rows = page.locator(".bars li")
    expect(rows).to_have_count(5)
    for row, prediction in zip(rows.all(), answer["predictions"], strict=True):
        expect(row.locator(".label")).to_have_text(shown(prediction["label"]))
        percentage = row.locator(".value").inner_text().replace("\u202f", "").removesuffix("%")
        assert float(percentage) == pytest.approx(prediction["probability"] * 100, abs=0.06)
    expect(page.locator(".timing")).to_contain_text(re.compile(r"Answered in \d[\d.]*\sms"))
    for stage in ("Reading the picture", "Waiting", "Computing", "Including network"):
        expect(page.locator(".timing")).to_contain_text(re.compile(rf"{stage}\s*\d[\d.]*\sms"))
    expect(page.locator("figcaption").first).to_contain_text(re.compile("600 . 520, JPEG"))
    assert page.locator(".photo").evaluate("image => image.naturalWidth") == 600
    expect(page.locator("#say")).to_contain_text(shown(first["label"]))
    expect(page.locator("#say")).to_contain_text(shown(second["label"]))
    expect(page.locator(".hint")).to_have_count(0)
    expect(page.locator(".limit:visible")).to_have_text(LIMIT_OF_17)
    check_accessible(page)


def test_picture_is_selected_before_the_models_are_loaded(
    site: Server, start: Start, pictures: dict[str, Path]
) -> None:
    page = start(site, "/health")
    waiting: list[Route] = []
    page.route("**/models", lambda route: waiting.append(route))
    page.goto(site.address + "/")
    page.set_input_files("#files", pictures["daisy"])
    expect(page.locator("#lead")).to_have_text("One moment.")
    waiting[0].continue_()
    expect(page.locator("#answer")).to_have_text("daisy")


def test_uncertain_prediction_shows_a_hint(site: Server, start: Start, pictures: dict[str, Path]) -> None:
    page = start(site)
    page.set_input_files("#files", pictures["unsure"])
    expect(page.locator(".hint")).to_contain_text("The model is unsure.")
    expect(page.locator(".hint")).to_contain_text("a flower even for a cat")
    expect(page.locator(".limit:visible")).to_have_text(LIMIT_OF_17)
    expect(page.locator("#say")).to_contain_text("The model is unsure.")
    check_accessible(page)


def test_picture_is_dropped(site: Server, start: Start, pictures: dict[str, Path]) -> None:
    page = start(site)
    expect(page.locator("#files")).to_be_enabled()
    session = page.context.new_cdp_session(page)
    data = {"items": [], "files": [str(pictures["daisy"])], "dragOperationsMask": 1}
    for kind in ("dragEnter", "dragOver", "drop"):
        session.send("Input.dispatchDragEvent", {"type": kind, "x": 600, "y": 500, "data": data})
        if kind == "dragOver":
            expect(page.locator("body")).to_have_class(re.compile("dragging"))
    expect(page.locator("#answer")).to_have_text(
        shown(ask(site, pictures["daisy"])["predictions"][0]["label"])
    )
    expect(page.locator("body")).not_to_have_class(re.compile("dragging"))


def test_picture_is_pasted(site: Server, start: Start) -> None:
    page = start(site, permissions=["clipboard-read", "clipboard-write"])
    expect(page.locator("#files")).to_be_enabled()
    page.evaluate(
        """async (bytes) => {
            const picture = new Blob([new Uint8Array(bytes)], {type: "image/png"});
            await navigator.clipboard.write([new ClipboardItem({"image/png": picture})]);
        }""",
        list(encoded(draw("dandelion").resize((60, 52)), "PNG")),
    )
    page.keyboard.press("Control+V")
    expect(page.locator(".bars li")).to_have_count(5)
    expect(page.locator("figcaption").first).to_contain_text(re.compile("60 . 52, PNG"))


def test_heat_map(site: Server, start: Start, pictures: dict[str, Path]) -> None:
    page = start(site)
    page.set_input_files("#files", pictures["sure"])
    switch = page.get_by_role("switch", name="What it looked at")
    labels = [prediction["label"] for prediction in ask(site, pictures["sure"])["predictions"]]
    with page.expect_request(re.compile(rf"/explain\?label={labels[0]}&format=png$")):
        switch.click()
    heat = page.get_by_role("img", name=f"what speaks for {labels[0].replace('_', ' ')}")
    expect(heat).to_be_visible()
    assert heat.evaluate("image => [image.naturalWidth, image.naturalHeight]") == [224, 224]
    frame, overlay = page.locator(".frame").bounding_box(), heat.bounding_box()
    assert frame
    assert overlay
    assert overlay["width"] == pytest.approx(frame["height"] * 224 / 256, abs=1)
    assert overlay["height"] == pytest.approx(overlay["width"], abs=1)
    expect(page.locator("#say")).to_contain_text("Heat map")
    check_accessible(page)

    with page.expect_request(re.compile(rf"/explain\?label={labels[1]}&")):
        page.get_by_label("Heat map for").select_option(labels[1])
    expect(page.get_by_role("img", name=f"speaks for {labels[1].replace('_', ' ')}")).to_be_visible()

    switch.click()
    expect(page.locator(".heat")).to_have_count(0)
    expect(switch).to_have_attribute("aria-checked", "false")


def test_three_facts_and_a_folded_card(site: Server, start: Start) -> None:
    page = start(site)
    model = site.client.get("/models").json()[0]
    (one_crop, *_others) = model["metrics"]
    right = f"{100 * one_crop['top1']:.1f}\u202f% of {one_crop['images']} pictures"
    expect(page.locator("#facts dt")).to_have_text(["Accuracy", "Classes", "Version"])
    expect(page.locator("#facts dd")).to_have_text([right, "17", str(model["version"])])
    unfit = page.get_by_role("heading", name="What it must not be used for")
    expect(unfit).to_be_hidden()

    page.get_by_text("Model card").click()
    expect(unfit).to_be_visible()
    expect(page.locator("#card table").first).to_contain_text("one crop")
    expect(page.locator("#measured")).to_contain_text(re.compile("First answer right.*mean of 10 crops"))
    check_accessible(page)


def test_examples_are_sent_like_any_picture(site: Server, start: Start) -> None:
    """The model knows two of the examples; the other two show its limits."""
    page = start(site)
    classes = site.client.get("/models").json()[0]["classes"]
    for example in ("sunflower", "daisy", "cat", "rocket"):
        with page.expect_request("**/predict"):
            page.get_by_role("button", name=f"A {example}").click()
        expect(page.locator(".file")).to_have_text(f"{example}.jpg")
        best = ask(site, ROOT / "service" / "http" / "static" / f"{example}.jpg")["predictions"][0]["label"]
        expect(page.locator("#answer")).to_have_text(shown(best))
        assert (best == example) == (example in classes)


@pytest.mark.parametrize("name", ["daisy.jpg", """it's "a" \\ daisy; no, (two).jpg"""])
def test_curl_line_gives_the_same_predictions(
    site: Server, start: Start, pictures: dict[str, Path], tmp_path: Path, name: str
) -> None:
    picture = tmp_path / name
    picture.write_bytes(pictures["daisy"].read_bytes())
    page = start(site, permissions=["clipboard-read", "clipboard-write"])
    page.set_input_files("#files", picture)
    page.get_by_role("button", name="Copy").click()
    expect(page.get_by_role("button", name="Copied")).to_be_visible()
    line = page.evaluate("navigator.clipboard.readText()")
    out = subprocess.run(["sh", "-c", line], cwd=tmp_path, capture_output=True, check=True).stdout
    assert json.loads(out)["predictions"] == ask(site, picture)["predictions"]
