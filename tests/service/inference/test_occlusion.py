"""POST /explain: the map is that of the network's own answers, and says where the thing is."""

import io
from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto, helper
from PIL import Image

from service.inference.occlusion import GRID, occluded_copies, occlusion_map, overlay
from tests.support.models.small_models import write_model
from tests.support.serving.images import encoded, noise
from tests.support.serving.responses import check
from tests.support.serving.server import CLASSES, Server, serving


@pytest.fixture(scope="module")
def red_sees(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model whose first class is as probable as a picture is red."""
    nodes = [
        helper.make_node("Cast", ["images"], ["pixels"], to=TensorProto.FLOAT),
        helper.make_node("Flatten", ["pixels"], ["colours"]),
        helper.make_node("Gemm", ["colours", "to_logits"], ["logits"]),
        helper.make_node("Softmax", ["logits"], ["probabilities"], axis=1),
    ]
    of_a_pixel = np.array([[0.2, -0.2], [-0.1, 0.1], [-0.1, 0.1]], np.float32) / (224 * 224)
    weights = np.tile(of_a_pixel, (224 * 224, 1))
    path = tmp_path_factory.mktemp("red") / "red.onnx"
    return write_model(path, ("red", "other"), nodes, {"to_logits": weights})


def spot(place: tuple[int, int]) -> bytes:
    """Grey, with a red square of 40 pixels at (x, y)."""
    picture = Image.new("RGB", (256, 256), (128, 128, 128))
    picture.paste((255, 0, 0), (*place, place[0] + 40, place[1] + 40))
    return encoded(picture, "PNG")


@pytest.mark.parametrize(("place", "cell"), [((30, 30), (1, 1)), ((180, 100), (3, 5))])
def test_the_map_shows_where_the_thing_is(
    red_sees: Path, tmp_path: Path, place: tuple[int, int], cell: tuple[int, int]
) -> None:
    with serving(tmp_path / "log", red_sees) as server:
        answer = server.client.post("/explain?format=json&label=red", content=spot(place)).json()
        found = np.array(answer["map"])
        assert found.shape == (GRID, GRID)
        assert found[cell] == found.max() == 1
        assert found[GRID - 1 - cell[0], GRID - 1 - cell[1]] == 0
        assert (answer["label"], answer["index"]) == ("red", 0)

        response = server.client.post("/explain?label=red", content=spot(place))
        assert response.headers["content-type"] == "image/png"
        assert response.headers["x-label"] == "red"
        picture = Image.open(io.BytesIO(response.content))
        assert picture.size == (224, 224)
        pixels = np.asarray(picture.convert("RGB"), np.int16)
        colour = pixels.max(axis=2) - pixels.min(axis=2)
        centre = [round((at + 0.5) * 224 / GRID) for at in cell]
        assert colour[centre[0], centre[1]] > 50 > 5 > colour[223 - centre[0], 223 - centre[1]]


def test_without_a_label_it_is_the_best_one_s(server: Server) -> None:
    data = encoded(noise(8))
    best = server.client.post("/predict", content=data).json()["predictions"][0]
    answer = server.client.post("/explain?format=json", content=data).json()
    assert (answer["label"], answer["index"]) == (best["label"], best["index"])
    assert answer["probability"] == pytest.approx(best["probability"], abs=1e-6)
    assert answer["label"] in CLASSES


def test_an_unknown_label_and_several_images(server: Server) -> None:
    data = encoded(noise(8))
    check(
        server.client.post("/explain?label=cat", content=data), 422, "invalid_request", "'cat'", "anemone"
    )
    two = [("file", ("1.jpg", data)), ("file", ("2.jpg", data))]
    check(server.client.post("/explain", files=two), 422, "invalid_request")


def test_nothing_that_matters_is_a_map_of_zeros() -> None:
    found = occlusion_map(0.2, [0.3] * GRID * GRID)
    assert not found.any()
    crop = np.full((224, 224, 3), 90, np.uint8)
    assert np.asarray(Image.open(io.BytesIO(overlay(crop, found)))).tolist() == crop.tolist()


def test_together_the_covers_hide_everything() -> None:
    crop = np.zeros((224, 224, 3), np.uint8)
    hidden = np.stack(occluded_copies(crop, (1.2, 2.7, 3.0))) > 0
    assert hidden.any(axis=0).all()
    assert hidden[0, 0, 0].all()
    assert not hidden[0, 100:].any()
