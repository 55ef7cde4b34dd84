"""Test the page with models that say when they do not know a picture, and one that does not."""

import re
from collections.abc import Iterator
from dataclasses import replace
from typing import Final

import pytest
from PIL import Image
from playwright.sync_api import FilePayload, expect

from contract.trust import COVERAGES
from tests.page.checks import NARROW, Start, check_accessible
from tests.page.test_several_pictures import downloaded, expected, rows
from tests.support.models.trusted import TRUST, write_trusted
from tests.support.serving.images import encoded
from tests.support.serving.server import Server, serving

# The 90 % set has the classes of a probability of 0.34 or more: all three of grey have less.
TRUSTED: Final = replace(TRUST, quantiles=dict.fromkeys(COVERAGES[:46], 0.66))
# Supports no 90 % set, and does not notice unknown pictures.
CALIBRATED: Final = replace(TRUST, quantiles=dict.fromkeys(COVERAGES[:31], 0.66), familiarity=None)
COLOURS: Final = {
    "red": (255, 0, 0),  # sure
    "yellow": (255, 255, 0),  # as much red as green
    "grey": (128, 128, 128),
    "pink": (255, 190, 190),  # too bright to be known, most like red
    "white": (255, 255, 255),
}
CHOOSES: Final = "It chooses among 3 classes"
CALIBRATION: Final = (
    "Percentages are calibrated: of photographs answered with 70\u202f%, about 70\u202f% were right "
    "(off by 2.0 points on average)."
)


@pytest.fixture(scope="module")
def trusted_site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Serve a model with trust, one that is only calibrated, and one without trust."""
    folder = tmp_path_factory.mktemp("trusted")
    (folder / "models").mkdir()
    for name, trust in (("full", TRUSTED), ("half", CALIBRATED), ("none", None)):
        write_trusted(folder / "models" / f"{name}.onnx", trust)
    with serving(folder / "stderr", None, models=folder / "models") as running:
        yield running


def picture(name: str, width: int = 300, height: int = 260) -> FilePayload:
    data = encoded(Image.new("RGB", (width, height), COLOURS[name]), "PNG")
    return {"name": f"{name}.png", "mimeType": "image/png", "buffer": data}


def test_unknown_and_known_pictures_by_model(trusted_site: Server, start: Start) -> None:
    page = start(trusted_site)
    expect(page.locator("#lead")).to_have_text(
        "full chooses among 3 classes, or says that a picture shows none of them: red, green and blue."
    )
    answer, limit, prediction_set = (page.locator(part) for part in ("#answer", "#result .limit", ".set"))
    with page.expect_request(re.compile(r"/predict\?coverage=0\.9&model=full$")):
        page.set_input_files("#files", picture("pink"))
    expect(answer).to_have_text("None of the 3")
    expect(page.locator(".nearest")).to_have_text("most like red")
    expect(limit).to_contain_text("less familiar to the model than 83\u202f% of new ones like them.")
    expect(page.get_by_role("list", name="If it had to choose").locator("li")).to_have_count(3)
    expect(page.locator(".bars.toned")).to_have_css("font-size", "14px")
    expect(page.locator(".set, .meaning, .hint")).to_have_count(0)
    expect(page.locator("#say")).to_contain_text("None of the 3. Most like red. This picture is unlike")
    page.get_by_text("Model card").click()
    measured = page.locator("#measured")
    expect(measured).to_contain_text("differ by 2.0 points on average, before calibration by 8.0")
    expect(measured).to_contain_text("1.2 classes on average; has the true one for 91.0\u202f%")
    expect(measured).to_contain_text("Held-out photographs that it knows95.0\u202f%")
    expect(measured).to_contain_text(
        "A picture of cats was more unfamiliar than a held-out photograph in 97.0\u202f% of pairs"
    )
    check_accessible(page)

    page.set_input_files("#files", picture("white"))
    expect(limit).to_contain_text("than 99\u202f% of new ones")

    page.set_input_files("#files", picture("grey"))
    expect(prediction_set).to_have_text("No class is probable enough for the 90\u202f% set")
    expect(page.locator(".hint")).to_have_text("The model is unsure. No class gets more than 50\u202f%.")
    page.set_input_files("#files", picture("red"))
    expect(prediction_set).to_have_text("90\u202f% set: red")
    expect(page.locator("#say")).to_contain_text("0.1\u202f%. 90\u202f% set: red.")
    page.set_input_files("#files", picture("yellow"))
    expect(prediction_set).to_have_text("90\u202f% set: red, green")
    expect(page.locator(".meaning")).to_have_text(
        f"For 9 of 10 photographs like the training ones, the set has the true class. {CALIBRATION}"
    )
    expect(limit).to_have_text(f"{CHOOSES} or none. Other things can pass as one.")
    check_accessible(page)

    choice = page.get_by_role("combobox", name="Model")
    for model, meaning in (("half", [CALIBRATION]), ("none", [])):
        with page.expect_request(re.compile(rf"/predict\?model={model}$")):
            choice.select_option(model)
        expect(limit).to_have_text(f"{CHOOSES}. A picture of anything else gets the nearest of them.")
        expect(page.locator(".hint")).to_contain_text("a flower even for a cat")
        expect(page.locator(".meaning")).to_have_text(meaning)
        expect(prediction_set).to_have_count(0)
        expect(page.locator("#lead")).to_contain_text(", and knows nothing else: red")
    expect(measured.locator("dt")).to_have_text(["SHA-256 of the file"])


def test_several_unknown_and_known_pictures_on_a_phone(trusted_site: Server, start: Start) -> None:
    names = ["pink", "grey", "red", "white", "yellow"]
    page = start(trusted_site, viewport=NARROW, has_touch=True, is_mobile=True)
    page.set_input_files("#files", [picture(name, 300, 800) for name in names])
    tiles, order = page.locator(".tile"), page.get_by_role("combobox", name="Sort by")
    expect(page.locator("#summary li")).to_have_text(["3 red", "2 of them unsure", "2 none of the 3"])
    expect(tiles.first.locator(".label")).to_have_text("None of the 3")
    expect(tiles.first.locator(".value")).to_have_text("most like red")
    expect(page.locator("#gallery-limit")).to_contain_text(CALIBRATION)
    expect(page.locator("#say")).to_have_text("5 of 5 pictures answered. 2: none of the 3.")
    check_accessible(page)

    for key in ("class", "probability"):
        order.select_option(key)
        expect(tiles.locator(".file")).to_have_text(
            ["red.png", "yellow.png", "grey.png", "pink.png", "white.png"]  # the unknown ones last
        )
    order.select_option("chosen")
    path = "/predict?coverage=0.9&model=full"
    answers = {
        file["name"]: trusted_site.client.post(path, files={"file": file["buffer"]})
        for file in map(picture, names)
    }
    written = rows(downloaded(page))
    assert written == expected(answers)
    assert written[1][-3:] == ["false", pytest.approx(0.830, abs=0.001), "red"]

    page.set_viewport_size({"width": 360, "height": 640})
    for name, last in (("pink", ".forced"), ("grey", ".bars li:first-child")):
        page.set_input_files("#files", picture(name, 300, 800))
        expect(page.locator(last)).to_be_visible()
        for part in (".photo", "#answer", "#result .limit", last):
            box = page.locator(part).bounding_box()
            assert box
            assert box["y"] >= 0
            assert box["y"] + box["height"] <= 640, (name, part)
