"""Tests of occlusion maps and POST /explain: the map shows where the labelled object is."""

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
def red_detector(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model whose first class is the more probable the redder an image is."""
    nodes = [
        helper.make_node("Cast", ["images"], ["pixels"], to=TensorProto.FLOAT),
        helper.make_node("Flatten", ["pixels"], ["colours"]),
        helper.make_node("Gemm", ["colours", "to_logits"], ["logits"]),
        helper.make_node("Softmax", ["logits"], ["probabilities"], axis=1),
    ]
    pixel_weights = np.array([[0.2, -0.2], [-0.1, 0.1], [-0.1, 0.1]], np.float32) / (224 * 224)
    weights = np.tile(pixel_weights, (224 * 224, 1))
    path = tmp_path_factory.mktemp("red") / "red.onnx"
    return write_model(path, ("red", "other"), nodes, {"to_logits": weights})


def red_square(position: tuple[int, int]) -> bytes:
    """A grey image with a red square of 40 pixels at (x, y)."""
    picture = Image.new("RGB", (256, 256), (128, 128, 128))
    picture.paste((255, 0, 0), (*position, position[0] + 40, position[1] + 40))
    return encoded(picture, "PNG")


@pytest.mark.parametrize(("position", "cell"), [((30, 30), (1, 1)), ((180, 100), (3, 5))])
def test_map_is_highest_where_the_object_is(
    red_detector: Path, tmp_path: Path, position: tuple[int, int], cell: tuple[int, int]
) -> None:
    with serving(tmp_path / "log", red_detector) as server:
        answer = server.client.post("/explain?format=json&label=red", content=red_square(position)).json()
        heat = np.array(answer["map"])
        assert heat.shape == (GRID, GRID)
        assert heat[cell] == heat.max() == 1
        assert heat[GRID - 1 - cell[0], GRID - 1 - cell[1]] == 0
        assert (answer["label"], answer["index"]) == ("red", 0)

        response = server.client.post("/explain?label=red", content=red_square(position))
        assert response.headers["content-type"] == "image/png"
        assert response.headers["x-label"] == "red"
        picture = Image.open(io.BytesIO(response.content))
        assert picture.size == (224, 224)
        pixels = np.asarray(picture.convert("RGB"), np.int16)
        colour = pixels.max(axis=2) - pixels.min(axis=2)
        centre = [round((at + 0.5) * 224 / GRID) for at in cell]
        assert colour[centre[0], centre[1]] > 50 > 5 > colour[223 - centre[0], 223 - centre[1]]


def test_without_a_label_the_best_one_is_explained(server: Server) -> None:
    data = encoded(noise(8))
    best = server.client.post("/predict", content=data).json()["predictions"][0]
    answer = server.client.post("/explain?format=json", content=data).json()
    assert (answer["label"], answer["index"]) == (best["label"], best["index"])
    assert answer["probability"] == pytest.approx(best["probability"], abs=1e-6)
    assert answer["label"] in CLASSES


def test_unknown_label_and_several_images_are_invalid(server: Server) -> None:
    data = encoded(noise(8))
    check(
        server.client.post("/explain?label=cat", content=data), 422, "invalid_request", "'cat'", "anemone"
    )
    two = [("file", ("1.jpg", data)), ("file", ("2.jpg", data))]
    check(server.client.post("/explain", files=two), 422, "invalid_request")


def test_map_is_zero_if_covering_changes_nothing() -> None:
    heat = occlusion_map(0.2, np.full(GRID * GRID, 0.3, np.float32))
    assert not heat.any()
    crop = np.full((224, 224, 3), 90, np.uint8)
    assert np.asarray(Image.open(io.BytesIO(overlay(crop, heat)))).tolist() == crop.tolist()


def test_covered_squares_cover_the_whole_crop() -> None:
    crop = np.zeros((224, 224, 3), np.uint8)
    covered = occluded_copies(crop, (1.2, 2.7, 3.0)) > 0
    assert covered.any(axis=0).all()
    assert covered[0, 0, 0].all()
    assert not covered[0, 100:].any()
