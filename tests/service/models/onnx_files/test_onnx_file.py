"""Tests of the reader of model files against the package onnx, and of what it refuses."""

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from service.errors import ModelError
from service.models import onnx_file
from service.models.onnx_file import OPERATORS, read
from service.models.onnx_wire import OnnxError
from service.models.session import load_model
from tests.support.models.costs import lrn
from tests.support.models.graphs import SHIPPED, compare, networks, small, varint
from training.export.graph import PRECISIONS, build_graph
from training.model import AlexNet


def test_allowed_operators_are_exactly_those_of_our_networks() -> None:
    graphs, used = networks(), set()
    for graph in graphs:
        file = read(graph.SerializeToString())
        onnx_file.check(file)
        compare(file, graph)
        used |= file.operators
    assert used == OPERATORS


@pytest.mark.parametrize("precision", PRECISIONS)
def test_weights_are_those_that_the_package_onnx_reads(precision: str) -> None:
    graph = build_graph(AlexNet(5, 0.02), [1.0] * 3, [1.0] * 3, precision)
    file, checked = read(graph.SerializeToString()), 0
    for tensor in graph.graph.initializer:
        values = file.initializers[tensor.name].values()
        np.testing.assert_array_equal(values, numpy_helper.to_array(tensor))
        assert values.dtype == numpy_helper.to_array(tensor).dtype
        checked += 1
    assert checked > 8


def test_shipped_model_is_read() -> None:
    file = read(SHIPPED.read_bytes())
    onnx_file.check(file)
    compare(file, onnx.load(SHIPPED))


@pytest.mark.parametrize(
    "kind", [TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.INT8, TensorProto.INT32, TensorProto.INT64]
)
def test_typed_values_are_read(kind: int) -> None:
    """Other exporters store values in fields of their type, packed or not."""
    packed = helper.make_tensor("t", kind, [2, 3], [0, 1, -2, 3, -128, 127])
    assert not packed.raw_data
    expected = numpy_helper.to_array(packed)
    unpacked = b"".join(_unpacked(packed))
    for data in (packed.SerializeToString(), unpacked):
        tensor = onnx_file._Reader().tensor(memoryview(data))
        np.testing.assert_array_equal(tensor.values(), expected)


def test_floats_of_nodes_are_read() -> None:
    (node,) = read(_with(lrn("x", "y"))).nodes
    assert node.attributes == {"size": 5, "alpha": None, "beta": None, "bias": None}
    assert node.floats == {"alpha": float(np.float32(5e-4)), "beta": 0.75, "bias": 2.0}


@pytest.mark.parametrize("wrong", [bytes([2 << 3, 1]), bytes([2 << 3 | 1]) + bytes(8)])
def test_float_of_another_wire_type_is_refused(wrong: bytes) -> None:
    attribute = helper.make_attribute("alpha", 1.0).SerializeToString() + wrong
    with pytest.raises(OnnxError, match="no float where there should be one"):
        onnx_file._Reader().attribute(memoryview(attribute))


def _with(node: onnx.NodeProto) -> bytes:
    data: bytes = helper.make_model(helper.make_graph([node], "g", [], [])).SerializeToString()
    return data


def _unpacked(tensor: TensorProto) -> list[bytes]:
    rest = TensorProto(dims=tensor.dims, data_type=tensor.data_type, name=tensor.name)
    one_by_one = [bytes([4 << 3 | 5]) + np.float32(v).tobytes() for v in tensor.float_data]
    numbers = [bytes([5 << 3]) + varint(v % 2**64) for v in tensor.int32_data]
    longer = [bytes([7 << 3]) + varint(v % 2**64) for v in tensor.int64_data]
    return [rest.SerializeToString(), *one_by_one, *numbers, *longer]


def _external(model: onnx.ModelProto) -> None:
    tensor = model.graph.initializer[0]
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="/etc/passwd")
    tensor.ClearField("raw_data")


def _external_in_a_node(model: onnx.ModelProto) -> None:
    tensor = TensorProto(name="t", data_type=1, data_location=TensorProto.EXTERNAL)
    model.graph.node.append(helper.make_node("Constant", [], ["c"], value=tensor))


def _loop(model: onnx.ModelProto) -> None:
    body = helper.make_graph([helper.make_node("Identity", ["a"], ["b"])], "body", [], [])
    model.graph.node.append(helper.make_node("Loop", ["a"], ["z"], body=body))


def _graphs(model: onnx.ModelProto) -> None:
    body = helper.make_graph([helper.make_node("Identity", ["a"], ["b"])], "body", [], [])
    model.graph.node[0].attribute.append(helper.make_attribute("bodies", [body]))


def _function(model: onnx.ModelProto) -> None:
    nodes = [helper.make_node("Identity", ["a"], ["b"])]
    imports = [helper.make_opsetid("", 17)]
    model.functions.append(helper.make_function("ours", "Mine", ["a"], ["b"], nodes, imports))


def _sparse(model: onnx.ModelProto) -> None:
    model.graph.sparse_initializer.add()


def _training(model: onnx.ModelProto) -> None:
    model.training_info.add()


def _opset(model: onnx.ModelProto) -> None:
    model.opset_import[0].version = 21


def _no_opset(model: onnx.ModelProto) -> None:
    del model.opset_import[:]


def _second_opset(model: onnx.ModelProto) -> None:
    model.opset_import.append(helper.make_opsetid("com.microsoft", 1))


def _operator(model: onnx.ModelProto) -> None:
    model.graph.node.append(helper.make_node("TfIdfVectorizer", ["a"], ["z"]))


def _foreign(model: onnx.ModelProto) -> None:
    """Add a node with an allowed name in a foreign domain."""
    model.graph.node.append(helper.make_node("Conv", ["a"], ["z"], domain="com.example"))


def _twice(model: onnx.ModelProto) -> None:
    model.metadata_props.append(model.metadata_props[0])


def _same_tensor(model: onnx.ModelProto) -> None:
    model.graph.initializer.append(model.graph.initializer[0])


def _declared_shape(model: onnx.ModelProto) -> None:
    model.graph.value_info.append(helper.make_tensor_value_info("pixels", 1, [1]))


def _attribute_twice(model: onnx.ModelProto) -> None:
    node = next(node for node in model.graph.node if node.op_type == "Conv")
    node.attribute.append(node.attribute[0])


def _many_pads(model: onnx.ModelProto) -> None:
    node = next(node for node in model.graph.node if node.op_type == "Conv")
    next(a for a in node.attribute if a.name == "pads").ints.extend([0] * 100)


def _no_graph(model: onnx.ModelProto) -> None:
    model.ClearField("graph")


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (_external, "a tensor in another file"),
        (_external_in_a_node, "a tensor in another file"),
        (_loop, "a graph inside a node"),
        (_graphs, "a graph inside a node"),
        (_function, "functions or a graph for training"),
        (_training, "functions or a graph for training"),
        (_sparse, "sparse tensors"),
        (_opset, "is of opset ai.onnx 21; only 17 and 18 are served"),
        (_no_opset, "is of opset none"),
        (_second_opset, "is of opset ai.onnx 17, com.microsoft 1"),
        (_operator, "operators that no exported network has: TfIdfVectorizer"),
        (_foreign, "operators that no exported network has: com.example:Conv"),
        (_twice, "the metadata alexnet twice"),
        (_same_tensor, "the tensor mean.shape twice"),
        (_declared_shape, "declares shapes of values inside the graph"),
        (_attribute_twice, "the attribute .* twice in a node"),
        (_many_pads, "too many numbers in the attribute pads"),
        (_no_graph, "has no graph"),
    ],
)
def test_forbidden_contents_are_refused(
    model_file: Path, tmp_path: Path, change: Callable[[onnx.ModelProto], None], reason: str
) -> None:
    model = onnx.load(model_file)
    change(model)
    path = tmp_path / "other.onnx"
    path.write_bytes(model.SerializeToString())
    with pytest.raises(ModelError, match=rf"^other\.onnx .*{reason}"):
        load_model(path, "cpu", 1)


def test_opset_18_is_accepted() -> None:
    model = small()
    model.opset_import[0].version = 18
    onnx_file.check(read(model.SerializeToString()))


def test_outputs_are_read() -> None:
    assert read(SHIPPED.read_bytes()).outputs == ["probabilities", "fc7", "conv5", "unfamiliarity"]


def test_file_that_looks_like_ort_format_is_read_as_onnx(model_file: Path, tmp_path: Path) -> None:
    """With ORTM at byte 4, ONNX Runtime would read a file in its own format, which is not checked."""
    model = onnx.load(model_file)
    model.ClearField("ir_version")
    model.ClearField("producer_name")
    rest = model.SerializeToString()
    path = tmp_path / "both.onnx"
    path.write_bytes(bytes([2 << 3 | 2, 6]) + b"..ORTM" + bytes([1 << 3, 8]) + rest)
    assert path.read_bytes()[4:8] == b"ORTM"
    assert load_model(path, "cpu", 1).manifest.version == 3


def test_file_over_2_gib_is_not_read(model_file: Path, tmp_path: Path) -> None:
    path = tmp_path / "large.onnx"
    shutil.copy(model_file, path)
    with path.open("r+b") as file:
        file.truncate(2**31 + 1)  # takes no room on the disk
    with pytest.raises(ModelError, match=r"2,147,483,649 bytes, 2,147,483,647 are allowed"):
        load_model(path, "cpu", 1)
