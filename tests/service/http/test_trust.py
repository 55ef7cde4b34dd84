"""What POST /predict says of a model with trust: known, unfamiliarity and the prediction set."""

from base64 import b64encode
from typing import Any

import numpy as np
import pytest
from PIL import Image

from contract.picture import decode
from contract.preprocess import centre_crop, square, ten_crops
from contract.recipe import DEFAULT_RECIPE
from service.inference.tasks import CENTRAL_CROP
from tests.support.models.trusted import CLASSES, TRUST, UNKNOWN_ABOVE
from tests.support.serving.images import colour, encoded, noise, plain
from tests.support.serving.responses import check
from tests.support.serving.server import Server

KEYS = {"predictions", "model", "image", "timing_ms"}
DARK_RED, BRIGHT_RED, BRIGHT = colour(200, 0, 0), colour(250, 240, 240), plain(250)
DOUBTFUL = colour(120, 110, 0)  # red or green


def ask(server: Server, data: bytes = DARK_RED, **query: object) -> dict[str, Any]:
    response = server.client.post("/predict", params={k: str(v) for k, v in query.items()}, content=data)
    assert response.status_code == 200, response.text
    answer: dict[str, Any] = response.json()
    return answer


@pytest.mark.parametrize(("data", "brightness", "known"), [(DARK_RED, 200, True), (BRIGHT, 750, False)])
def test_known_and_unfamiliarity(trusted: Server, data: bytes, brightness: int, known: bool) -> None:
    answer = ask(trusted, data)
    assert list(answer) == ["predictions", "known", "unfamiliarity", "model", "image", "timing_ms"]
    assert answer["unfamiliarity"] == pytest.approx(brightness / 3 / 255, abs=1e-6)
    assert answer["known"] is known
    assert known == (answer["unfamiliarity"] <= UNKNOWN_ABOVE)


def test_unknown_above_of_the_request_decides(trusted: Server) -> None:
    value = ask(trusted, BRIGHT)["unfamiliarity"]
    for limit, known in ((value, True), (np.nextafter(value, 0), False), (1, True), (0, False)):
        answer = ask(trusted, BRIGHT, unknown_above=limit)
        assert (answer["known"], answer["unfamiliarity"]) == (known, value)
    assert ask(trusted, plain(0), unknown_above=0)["known"] is True
    assert ask(trusted, plain(255), unknown_above=1)["known"] is True, "however it is rounded"


def test_each_of_several_images_gets_its_own(trusted: Server) -> None:
    images = [b64encode(data).decode() for data in (DARK_RED, b"no image", BRIGHT)]
    dark, problem, bright = trusted.client.post("/predict?coverage=0.9", json={"images": images}).json()[
        "results"
    ]
    assert (dark["known"], dark["set"], problem["status"]) == (True, ["red"], 415)
    assert (bright["known"], bright["set"]) == (False, [])


@pytest.mark.parametrize("model", ["trusted", "calibrated"])
@pytest.mark.parametrize(
    ("data", "coverage", "labels"),
    [
        (DARK_RED, 0.5, ["red"]),
        (DOUBTFUL, 0.9, ["red"]),
        (DOUBTFUL, 0.95, ["red"]),
        (colour(110, 120, 0), 0.5, []),
        (colour(110, 112, 0), 0.95, ["green", "red"]),
        (plain(99), 0.95, []),
    ],
)
def test_set_has_the_labels_within_the_quantile(
    trusted: Server, model: str, data: bytes, coverage: float, labels: list[str]
) -> None:
    answer = ask(trusted, data, coverage=coverage, model=model, top_k=1)
    assert answer["set"] == labels
    probabilities = {p["label"]: p["probability"] for p in ask(trusted, data)["predictions"]}
    assert labels == [name for name, p in probabilities.items() if 1 - p <= TRUST.quantile(coverage)]
    assert answer.keys() == KEYS | {"set"} | ({"known", "unfamiliarity"} if model == "trusted" else set())


def test_coverage_is_rounded_up_to_whole_percents(trusted: Server) -> None:
    """0.901 takes the quantile of 0.91: a set that is too large covers enough."""
    either = colour(200, 200, 0)
    sets = [ask(trusted, either, coverage=coverage)["set"] for coverage in (0.9, 0.901, 0.91)]
    assert sets == [[], ["red", "green"], ["red", "green"]]


def test_ten_crops_have_the_unfamiliarity_of_the_central_one(trusted: Server) -> None:
    framed = Image.new("RGB", (256, 256), (255, 255, 255))
    framed.paste((60, 0, 0), (16, 16, 240, 240))
    answer = ask(trusted, encoded(framed, "PNG"), crops=10)
    single = ask(trusted, encoded(framed, "PNG"))
    assert answer["unfamiliarity"] == single["unfamiliarity"] == pytest.approx(20 / 255, abs=1e-6)
    assert answer["predictions"] != single["predictions"]


def test_central_crop_is_the_one_that_is_not_mirrored() -> None:
    picture = decode(encoded(noise(1, 256, 256), "PNG"), DEFAULT_RECIPE, 10**8)
    crops = ten_crops(square(picture, DEFAULT_RECIPE), DEFAULT_RECIPE)
    assert np.array_equal(crops[CENTRAL_CROP], centre_crop(picture, DEFAULT_RECIPE))


@pytest.mark.parametrize(
    ("query", "words"),
    [
        ("coverage=0.99", ("coverage is 0.99", "40 photographs support 0.5 to 0.95")),
        ("coverage=0.9&crops=10", ("coverage is 0.9", "fitted on one crop, leave out crops=10")),
        ("coverage=0.49", ("coverage", "0.49", "greater than or equal to 0.5")),
        ("coverage=1", ("coverage", "'1'", "less than or equal to 0.99")),
        ("coverage=nan", ("coverage", "nan")),
        ("coverage=", ("coverage", "number")),
        ("unknown_above=-0.1", ("unknown_above", "-0.1", "greater than or equal to 0")),
        ("unknown_above=1.1", ("unknown_above", "1.1", "less than or equal to 1")),
        ("unknown_above=nan", ("unknown_above", "nan")),
        ("unknown_above=inf", ("unknown_above", "inf")),
        ("model=calibrated&unknown_above=0.5", ("unknown_above is 0.5", "calibrated has no unfamiliarity")),
        ("model=untested&unknown_above=0.5", ("unknown_above is 0.5", "untested has no unfamiliarity")),
        ("model=untested&coverage=0.9", ("coverage is 0.9", "untested has no section trust, leave it out")),
    ],
)
def test_parameters_that_cannot_be_met_are_refused(
    trusted: Server, query: str, words: tuple[str, ...]
) -> None:
    check(trusted.client.post(f"/predict?{query}", content=DARK_RED), 422, "invalid_request", *words)


def test_files_without_trust_are_answered_as_before(trusted: Server) -> None:
    for model in ("untested", "calibrated"):
        for crops in (1, 10):
            assert ask(trusted, BRIGHT, model=model, crops=crops).keys() == KEYS
    assert ask(trusted, model="untested")["predictions"] == ask(trusted)["predictions"]


def test_explain_has_no_trust(trusted: Server) -> None:
    answer = trusted.client.post("/explain?format=json", content=BRIGHT).json()
    assert answer.keys() == {"label", "index", "probability", "map", "model", "image", "timing_ms"}


def test_models_list_their_trust(trusted: Server) -> None:
    listed = {model["name"]: model for model in trusted.client.get("/models").json()}
    assert listed["trusted"]["classes"] == list(CLASSES)
    assert listed["untested"]["trust"] is None
    assert listed["calibrated"]["trust"]["familiarity"] is None
    trust = listed["trusted"]["trust"]
    assert (trust["temperature"], trust["quantiles"]["0.90"]) == (1.25, TRUST.quantile(0.9))
    assert trust["ece"] == {"value": 0.02, "low": 0.01, "high": 0.04}
    assert trust["familiarity"]["unfamiliar"][0]["data"] == "cats"
