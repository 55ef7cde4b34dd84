"""Tests of reading conv1's kernels from model files of every precision, and of their picture."""

import io
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

from contract.kernels import kernels_picture
from service.models.filters import conv1_weights, draw_kernels
from service.models.onnx_file import OnnxFile, read
from service.models.onnx_wire import OnnxError
from service.models.session import load_model
from tests.support.serving.responses import check
from tests.support.serving.server import Server, serving
from training.export.graph import PRECISIONS, Rounding, build_graph
from training.model import AlexNet


@pytest.mark.parametrize("width", [0.02, 0.25])
@pytest.mark.parametrize("integer", [False, True])
@pytest.mark.parametrize("precision", PRECISIONS)
def test_kernels_are_those_of_the_network(precision: str, integer: bool, width: float) -> None:
    torch.manual_seed(0)
    network = AlexNet(3, width)
    rounding = Rounding(frozenset({"conv1"}), {"centred": 1.0, "conv1": 1.0}) if integer else Rounding()
    graph = build_graph(network, [0.0] * 3, [1.0] * 3, precision, rounding)
    kernels = conv1_weights(read(graph.SerializeToString()))
    expected = network.conv1.weight.detach().numpy()
    assert kernels is not None
    assert kernels.dtype == np.float32
    assert kernels.shape == expected.shape
    step = {"fp32": 0, "fp16": 2**-11, "int8": 0.5 / (64 if integer else 127)}[precision]
    assert np.abs(kernels - expected).max() <= step * np.abs(expected).max() * 1.01
    with Image.open(io.BytesIO(draw_kernels(kernels))) as image:
        assert image.format == "PNG"
        np.testing.assert_array_equal(np.asarray(image), np.asarray(kernels_picture(kernels)))
    assert draw_kernels(kernels) == draw_kernels(kernels.copy())


def test_loaded_model_keeps_kernels_and_not_the_file(model_file: Path) -> None:
    model = load_model(model_file, "cpu", 1)
    (stored,) = (t for t in onnx.load(model_file).graph.initializer if t.name == "conv1.weight")
    assert model.kernels is not None
    np.testing.assert_array_equal(model.kernels, numpy_helper.to_array(stored))
    owner = model.kernels if model.kernels.base is None else model.kernels.base
    assert owner.nbytes == model.kernels.nbytes


def test_network_without_conv1_has_no_kernels(fragile_model: Path) -> None:
    assert load_model(fragile_model, "cpu", 1).kernels is None


def stored(**tensors: np.ndarray) -> OnnxFile:
    nodes = [helper.make_node("Identity", ["a"], ["b"])]
    values = [numpy_helper.from_array(value, name.replace("_", ".")) for name, value in tensors.items()]
    return read(helper.make_model(helper.make_graph(nodes, "g", [], [], values)).SerializeToString())


@pytest.mark.parametrize(
    "shape", [(4, 1, 11, 11), (4, 3, 11, 9), (363, 4), (0, 3, 11, 11), (400_000, 3, 1, 1)]
)
def test_kernels_that_are_no_picture_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(OnnxError, match="no kernels of three colours"):
        conv1_weights(stored(conv1_weight=np.zeros(shape, np.float16)))


def test_wrong_number_of_scales_is_refused() -> None:
    levels, scale = np.zeros((4, 3, 5, 5), np.int8), np.ones(3, np.float32)
    with pytest.raises(OnnxError, match="one for each kernel"):
        conv1_weights(stored(conv1_weight_int8=levels, conv1_weight_scale=scale))
    assert conv1_weights(stored(conv1_weight_int8=levels)) is None


def test_unsupported_type_is_refused() -> None:
    file = stored(conv1_weight=np.zeros((4, 3, 5, 5), np.float64))
    assert file.initializers["conv1.weight"].kind == TensorProto.DOUBLE
    with pytest.raises(OnnxError, match="type that is not supported"):
        conv1_weights(file)


def test_route_draws_the_kernels(server: Server, model_file: Path) -> None:
    answer = server.client.get("/models/tiny/filters.png")
    assert answer.headers["content-type"] == "image/png"
    kernels = conv1_weights(read(model_file.read_bytes()))
    assert kernels is not None
    assert answer.content == draw_kernels(kernels)
    check(server.client.get("/models/none/filters.png"), 404, "not_found")
    check(server.client.get("/models/tiny/filters.png?version=9"), 404, "not_found")


def test_route_is_404_without_conv1(fragile_model: Path, tmp_path: Path) -> None:
    with serving(tmp_path / "log", fragile_model) as server:
        check(server.client.get("/models/fragile/filters.png"), 404, "not_found", "conv1")
