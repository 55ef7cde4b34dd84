"""The reader of model files, against the package onnx, and what it refuses."""

import itertools
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from service import onnxfile
from service.onnxfile import OPERATORS, OnnxError, OnnxFile, Tensor, read
from service.session import ModelError, load_model
from training.graph import PRECISIONS, Rounding, build_graph
from training.model import AlexNet, Variant, weighted_layers

SHIPPED = Path(__file__).parents[2] / "models" / "flowers17.onnx"


def kinds(graph: onnx.GraphProto) -> set[str]:
    return {f"{n.domain}:{n.op_type}" if n.domain not in {"", "ai.onnx"} else n.op_type for n in graph.node}


def compare(file: OnnxFile, model: onnx.ModelProto) -> None:
    """What was read is what the package reads, and there is nothing in it that is not let in."""
    assert file.operators == kinds(model.graph)
    assert file.opsets == {o.domain.replace("ai.onnx", ""): o.version for o in model.opset_import}
    assert file.metadata == {e.key: e.value for e in model.metadata_props}
    assert {n: t.shape for n, t in file.initializers.items()} == {
        t.name: list(t.dims) for t in model.graph.initializer
    }
    attributes = [a for node in model.graph.node for a in node.attribute]
    assert not any(a.HasField("g") or a.graphs or a.HasField("sparse_tensor") for a in attributes)
    assert not [*model.functions, *model.training_info, *model.graph.sparse_initializer]
    tensors = [
        *model.graph.initializer,
        *(a.t for a in attributes),
        *(t for a in attributes for t in a.tensors),
    ]
    assert not any(t.data_location == TensorProto.EXTERNAL or t.external_data for t in tensors)


def networks() -> list[onnx.ModelProto]:
    """Every graph that training can write: architecture, switches, precision, layers in 8 bits or not."""
    found = []
    switches = itertools.product(
        ("paper", "one-tower", "torchvision"),
        ("relu", "tanh"),
        (True, False),
        ("overlapping", "plain"),
        PRECISIONS,
        (True, False),
    )
    for arch, activation, lrn, pooling, precision, integer in switches:
        if integer and (precision != "int8" or activation != "relu"):
            continue
        try:
            variant = Variant(arch, activation, lrn, pooling)
        except ValueError:
            continue
        network = AlexNet(5, 0.02, variant=variant)
        rounding = Rounding()
        if integer:
            names = [name for name, _layer in weighted_layers(network)]
            points = ["centred", *names, "conv1.norm", "conv2.norm"]
            rounding = Rounding(frozenset(names), {p: 1.0 for p in points if p != "fc8"})
        found.append(build_graph(network, [1.0] * 3, [1.0] * 3, precision, rounding))
    assert len(found) > 20
    return found


def test_every_network_of_ours_is_let_in_and_no_operator_more() -> None:
    graphs, used = networks(), set()
    for graph in graphs:
        file = read(graph.SerializeToString())
        onnxfile.check(file)
        compare(file, graph)
        used |= file.operators
    assert used == OPERATORS


@pytest.mark.parametrize("precision", PRECISIONS)
def test_weights_are_read_as_the_package_reads_them(precision: str) -> None:
    graph = build_graph(AlexNet(5, 0.02), [1.0] * 3, [1.0] * 3, precision)
    file, checked = read(graph.SerializeToString()), 0
    for tensor in graph.graph.initializer:
        if tensor.data_type in {TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.INT8}:
            values = file.initializers[tensor.name].values()
            np.testing.assert_array_equal(values, numpy_helper.to_array(tensor))
            assert values.dtype == numpy_helper.to_array(tensor).dtype
            checked += 1
        else:
            with pytest.raises(OnnxError, match="type that is not read"):
                file.initializers[tensor.name].values()
    assert checked > 8


def test_the_shipped_model() -> None:
    file = read(SHIPPED.read_bytes())
    onnxfile.check(file)
    compare(file, onnx.load(SHIPPED))


@pytest.mark.parametrize("kind", [TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.INT8])
def test_values_that_are_not_raw(kind: int) -> None:
    """Other exporters write them into fields of their type, and protobuf packs those or does not."""
    packed = helper.make_tensor("t", kind, [2, 3], [0, 1, -2, 3, -128, 127])
    assert not packed.raw_data
    expected = numpy_helper.to_array(packed)
    unpacked = b"".join(_unpacked(packed))
    for data in (packed.SerializeToString(), unpacked):
        tensor = onnxfile._Reader().tensor(memoryview(data))
        np.testing.assert_array_equal(tensor.values(), expected)


def _unpacked(tensor: TensorProto) -> list[bytes]:
    rest = TensorProto(dims=tensor.dims, data_type=tensor.data_type, name=tensor.name)
    one_by_one = [bytes([4 << 3 | 5]) + np.float32(v).tobytes() for v in tensor.float_data]
    numbers = [bytes([5 << 3]) + _varint(v % 2**64) for v in tensor.int32_data]
    return [rest.SerializeToString(), *one_by_one, *numbers]


def _varint(value: int) -> bytes:
    found = bytearray()
    while value > 0x7F:
        found.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*found, value])


# --- what is refused -------------------------------------------------------------------------------------


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
    """An operator's name that is ours, in a domain that is not."""
    model.graph.node.append(helper.make_node("Conv", ["a"], ["z"], domain="com.example"))


def _twice(model: onnx.ModelProto) -> None:
    model.metadata_props.append(model.metadata_props[0])


def _same_tensor(model: onnx.ModelProto) -> None:
    model.graph.initializer.append(model.graph.initializer[0])


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
        (_no_graph, "has no graph"),
    ],
)
def test_what_is_never_let_in(
    model_file: Path, tmp_path: Path, change: Callable[[onnx.ModelProto], None], reason: str
) -> None:
    model = onnx.load(model_file)
    change(model)
    path = tmp_path / "other.onnx"
    path.write_bytes(model.SerializeToString())
    with pytest.raises(ModelError, match=rf"^other\.onnx .*{reason}"):
        load_model(path, "cpu", 1)


def test_opset_18_is_let_in() -> None:
    model = small()
    model.opset_import[0].version = 18
    onnxfile.check(read(model.SerializeToString()))


def test_a_file_that_looks_like_the_runtime_s_own_format_is_read_as_onnx(
    model_file: Path, tmp_path: Path
) -> None:
    """ORTM at byte 4 makes ONNX Runtime take bytes for its own format, which nothing here has checked."""
    model = onnx.load(model_file)
    model.ClearField("ir_version")
    model.ClearField("producer_name")
    rest = model.SerializeToString()
    path = tmp_path / "both.onnx"
    path.write_bytes(bytes([2 << 3 | 2, 6]) + b"..ORTM" + bytes([1 << 3, 8]) + rest)
    assert path.read_bytes()[4:8] == b"ORTM"
    assert load_model(path, "cpu", 1).manifest.version == 3


def test_a_file_that_is_too_large_is_not_read(model_file: Path, tmp_path: Path) -> None:
    path = tmp_path / "large.onnx"
    shutil.copy(model_file, path)
    with path.open("r+b") as file:
        file.truncate(2**31 + 1)  # takes no room on the disk
    with pytest.raises(ModelError, match="larger than any ONNX file"):
        load_model(path, "cpu", 1)


# --- damage ----------------------------------------------------------------------------------------------


def small() -> onnx.ModelProto:
    """A few hundred bytes with a field of every kind that is looked at."""
    value = helper.make_tensor("value", TensorProto.FLOAT, [2], [1, 2])
    nodes = [
        helper.make_node("Conv", ["x", "conv1.weight"], ["y"], kernel_shape=[3, 3], auto_pad="VALID"),
        helper.make_node("Cast", ["y"], ["z"], to=1),
        helper.make_node("Add", ["z", "w"], ["a"], domain="", some=value, scale=0.5),
    ]
    stored = [
        numpy_helper.from_array(np.arange(54, dtype=np.float16).reshape(2, 3, 3, 3), "conv1.weight"),
        helper.make_tensor("w", TensorProto.INT8, [3], [1, -2, 3]),
    ]
    model = helper.make_model(
        helper.make_graph(nodes, "g", [], [], stored),
        opset_imports=[helper.make_opsetid("", 17)],
        ir_version=8,
    )
    model.metadata_props.add(key="alexnet", value="{}")
    model.metadata_props.add(key="other", value="ä")
    return model


SMALL = small().SerializeToString()


@st.composite
def damaged(draw: st.DrawFn) -> bytes:
    data = bytearray(SMALL)
    for _change in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(data)))
        until = draw(st.integers(at, min(len(data), at + 12)))
        kind = draw(st.sampled_from(["replace", "insert", "delete", "copy", "cut"]))
        if kind == "cut":
            del data[at:]
        elif kind == "delete":
            del data[at:until]
        elif kind == "copy":
            to = draw(st.integers(0, len(data)))
            data[to:to] = data[at:until]
        else:
            new = draw(st.binary(min_size=1, max_size=12))
            data[at : at + len(new) if kind == "replace" else at] = new
    return bytes(data)


@settings(max_examples=1000, deadline=None)
@given(damaged())
def test_damaged_files_are_refused_or_read_as_the_package_reads_them(data: bytes) -> None:
    try:
        file = read(data)
    except OnnxError:
        return
    try:
        model = onnx.ModelProto.FromString(data)
    except DecodeError:
        return  # it refuses more, and so will ONNX Runtime
    compare(file, model)
    for tensor in model.graph.initializer:
        try:
            values = file.initializers[tensor.name].values()
        except OnnxError:
            continue
        np.testing.assert_array_equal(values, numpy_helper.to_array(tensor))


@settings(max_examples=300, deadline=None)
@given(st.integers(0, SHIPPED.stat().st_size - 1))
def test_a_file_that_is_cut_off_is_refused_or_lacks_its_end(end: int) -> None:
    try:
        file = read(SHIPPED.read_bytes()[:end])
    except OnnxError:
        return
    assert not file.opsets or not file.metadata  # which follow the graph


@given(st.binary(max_size=300))
def test_noise(data: bytes) -> None:
    with pytest.raises(OnnxError):
        onnxfile.check(read(data))


def nested(depth: int) -> bytes:
    """A graph in an attribute of a node in a graph ..."""
    inner = b""
    for _level in range(depth):
        for number in (6, 5, 1):
            inner = bytes([number << 3 | 2]) + _varint(len(inner)) + inner
    return bytes([7 << 3 | 2]) + _varint(len(inner)) + inner


BOMBS: dict[str, tuple[bytes, str]] = {
    "nothing": (b"", "has no graph"),
    "deep": (nested(5000), "a graph inside a node"),
    "groups": (bytes([7 << 3 | 3]) * 100_000, "no valid type"),
    "a length of 2^64 - 1": (bytes([7 << 3 | 2]) + b"\xff" * 9 + b"\x01", "longer than what is left"),
    "a number without end": (bytes([1 << 3]) + b"\xff" * 20, "a number is too long"),
    "a number that is cut off": (bytes([1 << 3]) + b"\xff", "a number has no end"),
    "field 0": (b"\x00\x00", "no valid number"),
    "many fields": (bytes([1 << 3, 8]) * 500_000, "more parts"),
    "a number for the graph": (bytes([7 << 3, 1]), "a number where"),
    "a text for a number": (bytes([8 << 3 | 2, 2, 2 << 3 | 2, 0]), "no valid number"),
    "no UTF-8": (bytes([14 << 3 | 2, 3, 1 << 3 | 2, 1, 0xFF]), "not UTF-8"),
}


@pytest.mark.parametrize("name", BOMBS)
def test_bombs(name: str) -> None:
    data, reason = BOMBS[name]
    started = time.thread_time()
    with pytest.raises(OnnxError, match=reason):
        read(data)
    assert time.thread_time() - started < 5  # half a million fields would take longer than they may


def tensor_of(**parts: Any) -> Tensor:
    return onnxfile._Reader().tensor(memoryview(TensorProto(**parts).SerializeToString()))


def test_shapes_that_lie() -> None:
    for shape in ([2**31], [-1], [1] * 9):
        with pytest.raises(OnnxError, match="no valid shape"):
            tensor_of(name="w", data_type=1, dims=shape)
    packed = bytes([1 << 3 | 2]) + _varint(1_000_000) + b"\x01" * 1_000_000
    with pytest.raises(OnnxError, match="too many dimensions"):
        onnxfile._Reader().tensor(memoryview(packed))
    for parts in ({"raw_data": b"1234"}, {"float_data": [0.0] * 3}, {"float_data": [0.0] * 10_000}, {}):
        with pytest.raises(OnnxError, match="not as long as its shape says"):
            tensor_of(name="w", data_type=1, dims=[2**31 - 1, 2**31 - 1], **parts).values()
        with pytest.raises(OnnxError, match="not as long as its shape says"):
            tensor_of(name="w", data_type=1, dims=[2], **parts).values()
