"""What networks cost: shapes against the package onnx, ours let in, and what takes too much refused."""

from collections.abc import Sequence
from itertools import pairwise
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import NodeProto, TensorProto, helper, numpy_helper, shape_inference

from service.errors import ModelError
from service.models import onnx_cost as onnxcost
from service.models import onnx_file as onnxfile
from service.models.onnx_cost import BATCHES, MOST_VALUES, MOST_WORK
from service.models.onnx_file import OPERATORS, read
from service.models.onnx_wire import OnnxError
from service.models.session import load_model
from tests.service.models.test_onnx_file import networks
from tests.support.models.graphs import SHIPPED
from tests.support.models.small_models import write_model
from training.export.graph import build_graph
from training.model import AlexNet, Variant

CAST = helper.make_node("Cast", ["images"], ["pixels"], to=TensorProto.FLOAT)
FIRST = helper.make_node("Transpose", ["pixels"], ["x"], perm=[0, 3, 1, 2])
FLAT = helper.make_node("Flatten", ["pixels"], ["flat"])


def int64(*values: int) -> np.ndarray:
    return np.array(values, np.int64)


def floats(*shape: int) -> np.ndarray:
    return np.zeros(shape, np.float32)


def graph(nodes: Sequence[NodeProto], **stored: np.ndarray) -> bytes:
    values = [numpy_helper.from_array(value, name) for name, value in stored.items()]
    made = helper.make_graph([CAST, *nodes], "g", [], [], values)
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    data: bytes = model.SerializeToString()
    return data


def check(data: bytes) -> None:
    file = read(data)
    onnxfile.check(file)
    onnxcost.check(file)


def test_every_operator_has_a_rule() -> None:
    assert onnxcost.OPERATORS.keys() == OPERATORS


def test_shapes_of_our_networks_are_those_that_the_package_infers() -> None:
    for model in networks():
        file = read(model.SerializeToString())
        onnxcost.check(file)
        for batch in BATCHES:
            run = onnxcost._Run(file, batch)
            run.check()
            model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = batch
            for output in model.graph.output:
                output.type.tensor_type.shape.dim[0].dim_value = batch
            inferred = shape_inference.infer_shapes(
                model, check_type=True, strict_mode=True, data_prop=True
            )
            found = {
                value.name: tuple(d.dim_value for d in value.type.tensor_type.shape.dim)
                for value in [*inferred.graph.value_info, *inferred.graph.output]
            }
            assert {name: run.shapes[name] for name in found} == found
            assert found.keys() >= {output for node in model.graph.node for output in node.output}


def test_the_largest_network_of_ours_takes_less_than_half_of_what_is_allowed() -> None:
    model = AlexNet(1000, 1.0, variant=Variant("one-tower", "relu", True, "overlapping"))
    for precision in ("fp16", "int8"):
        file = read(build_graph(model, [1.0] * 3, [1.0] * 3, precision).SerializeToString())
        onnxcost.check(file)
        run = onnxcost._Run(file, 1)
        run.check()
        assert MOST_VALUES / 4 < run.values < MOST_VALUES / 2
        assert MOST_WORK / 4 < run.work < MOST_WORK / 2


def test_the_shipped_model_is_let_in() -> None:
    check(SHIPPED.read_bytes())


def conv(source: str, target: str, **attributes: Any) -> NodeProto:
    return helper.make_node("Conv", [source, "kernels"], [target], **attributes)


def many(kind: str, count: int, *rest: str) -> list[NodeProto]:
    names = ["x", *(f"x{n}" for n in range(1, count + 1))]
    return [helper.make_node(kind, [a, *rest], [b]) for a, b in pairwise(names)]


COSTLY: dict[str, tuple[bytes, str]] = {
    "constants expanded": (
        graph(
            [helper.make_node("Expand", ["one", "shape"], ["big"])],
            one=floats(1),
            shape=int64(10**5, 10**5),
        ),
        "values from its constants",
    ),
    "constants doubled again and again": (
        graph(
            [helper.make_node("Mul", [f"c{n}", f"c{n}.down"], [f"c{n + 1}"]) for n in range(1)],
            **{"c0": floats(1, 4000), "c0.down": floats(4000, 1)},
        ),
        "values from its constants",
    ),
    "convolutions of constants": (
        graph([conv("plane", "y")], plane=floats(1, 1, 20, 20), kernels=floats(1, 1, 3, 3)),
        "Conv of constants alone",
    ),
    "a picture expanded": (
        graph(
            [
                FIRST,
                helper.make_node("Reshape", ["x", "row"], ["y"]),
                helper.make_node("Expand", ["y", "wide"], ["z"]),
            ],
            row=int64(-1, 1, 150528),
            wide=int64(1, 200, 150528),
        ),
        "30,557,184 values for an image",
    ),
    "a batch against itself": (
        graph(
            [
                FLAT,
                helper.make_node("Reshape", ["flat", "down"], ["a"]),
                helper.make_node("Reshape", ["flat", "across"], ["b"]),
                helper.make_node("Add", ["a", "b"], ["y"]),
            ],
            down=int64(-1, 1, 150528),
            across=int64(1, -1, 150528),
        ),
        "values for an image",
    ),
    "large padding": (
        graph([FIRST, conv("x", "y", pads=[9000] * 4)], kernels=floats(1, 3, 3, 3)),
        "values for an image",
    ),
    "large kernels": (
        graph([FIRST, conv("x", "y", pads=[100] * 4)], kernels=floats(1, 3, 200, 200)),
        "values for an image",
    ),
    "many convolutions": (
        graph(
            [
                FIRST,
                conv("x", "y"),
                *(helper.make_node("Conv", ["y", "more"], [f"y{n}"], strides=[4, 4]) for n in range(20)),
            ],
            kernels=floats(60, 3, 5, 5),
            more=floats(60, 60, 5, 5),
        ),
        "multiplications for an image",
    ),
    "large pools": (
        graph(
            [
                FIRST,
                *(helper.make_node("MaxPool", ["x"], [f"y{n}"], kernel_shape=[99, 99]) for n in range(2)),
            ]
        ),
        "multiplications for an image",
    ),
    "many large layers": (graph([FIRST, *many("Tanh", 150)]), "values for an image"),
    "many small layers": (
        graph(
            [FLAT, helper.make_node("Gemm", ["flat", "w"], ["x"]), *many("Tanh", 600)], w=floats(150528, 1)
        ),
        "operations; 500 are allowed",
    ),
}


@pytest.mark.parametrize("name", COSTLY)
def test_what_costs_too_much_is_refused(name: str) -> None:
    data, reason = COSTLY[name]
    with pytest.raises(OnnxError, match=reason):
        check(data)


def typed(kind: int, name: str = "strides") -> bytes:
    """Strides of a type that ONNX Runtime does not read: it would take the default, 1."""
    node = conv("x", "y", kernel_shape=[3, 3], strides=[100, 100])
    next(a for a in node.attribute if a.name == name).type = kind
    return graph([FIRST, node], kernels=floats(1, 3, 3, 3))


ODD: dict[str, tuple[bytes, str]] = {
    "a shape that is computed": (
        graph(
            [
                FLAT,
                helper.make_node("Gemm", ["flat", "w"], ["s"]),
                helper.make_node("Expand", ["one", "s"], ["y"]),
            ],
            w=floats(150528, 1),
            one=floats(1),
        ),
        "takes the shape s from what it computes",
    ),
    "a cast to integers": (
        graph([helper.make_node("Cast", ["pixels"], ["y"], to=TensorProto.INT64)]),
        "Cast to a type",
    ),
    "a cast to text": (
        graph([helper.make_node("Cast", ["pixels"], ["y"], to=TensorProto.STRING)]),
        "Cast to a type",
    ),
    "an attribute of another type": (typed(onnx.AttributeProto.FLOATS), "no list of integers"),
    "padding by name": (
        graph([FIRST, conv("x", "y", auto_pad="SAME_UPPER")], kernels=floats(1, 3, 3, 3)),
        "Conv with the attribute auto_pad",
    ),
    "dilated kernels": (
        graph([FIRST, conv("x", "y", dilations=[2, 2])], kernels=floats(1, 3, 3, 3)),
        "Conv with the attribute dilations",
    ),
    "other kernels than the weights": (
        graph([FIRST, conv("x", "y", kernel_shape=[5, 5])], kernels=floats(1, 3, 3, 3)),
        "kernel_shape that is not the weights'",
    ),
    "strides of 0": (
        graph([FIRST, conv("x", "y", strides=[0, 0])], kernels=floats(1, 3, 3, 3)),
        "does not fit",
    ),
    "negative padding": (
        graph([FIRST, conv("x", "y", pads=[-1] * 4)], kernels=floats(1, 3, 3, 3)),
        "does not fit",
    ),
    "kernels beyond the picture": (
        graph([FIRST, conv("x", "y")], kernels=floats(1, 3, 225, 1)),
        "does not fit",
    ),
    "no groups": (graph([FIRST, conv("x", "y", group=0)], kernels=floats(1, 3, 3, 3)), "do not fit"),
    "groups that do not fit": (
        graph([FIRST, conv("x", "y", group=3)], kernels=floats(1, 3, 3, 3)),
        "do not fit",
    ),
    "a pool without a kernel": (graph([FIRST, helper.make_node("MaxPool", ["x"], ["y"])]), "does not fit"),
    "two outputs": (
        graph([FIRST, helper.make_node("MaxPool", ["x"], ["y", "z"], kernel_shape=[2, 2])]),
        "a number of inputs or outputs",
    ),
    "too few inputs": (
        graph([helper.make_node("Add", ["pixels"], ["y"])]),
        "a number of inputs or outputs",
    ),
    "no inputs": (graph([helper.make_node("Relu", [], ["y"])]), "a number of inputs or outputs"),
    "an input that nothing makes": (
        graph([helper.make_node("Relu", ["lost"], ["y"])]),
        "uses the value lost before",
    ),
    "an empty input": (graph([helper.make_node("Relu", [""], ["y"])]), "uses the value  before"),
    "a cycle": (graph([helper.make_node("Add", ["pixels", "y"], ["y"])]), "uses the value y before"),
    "an output twice": (graph([FLAT, FLAT]), "the value flat twice"),
    "an output that is stored": (graph([FLAT], flat=floats(1)), "the value flat twice"),
    "a stored input": (graph([FLAT], images=floats(1)), "by the name of its input"),
    "nothing stored": (graph([FLAT], w=floats(0, 5)), "has no values"),
    "operands that do not fit": (
        graph([helper.make_node("Add", ["pixels", "w"], ["y"])], w=floats(5)),
        "do not fit",
    ),
    "matrices that do not fit": (
        graph([FLAT, helper.make_node("Gemm", ["flat", "w"], ["y"])], w=floats(5, 5)),
        "do not fit",
    ),
    "no matrices": (
        graph([helper.make_node("Gemm", ["pixels", "w"], ["y"])], w=floats(5, 5)),
        "no matrices",
    ),
    "an order that does not fit": (
        graph([helper.make_node("Transpose", ["pixels"], ["y"], perm=[0, 1, 1, 2])]),
        "order that does not fit",
    ),
    "a new shape that does not fit": (
        graph([helper.make_node("Reshape", ["pixels", "s"], ["y"])], s=int64(-1, 11)),
        "shape that does not fit",
    ),
    "a new shape with two gaps": (
        graph([helper.make_node("Reshape", ["pixels", "s"], ["y"])], s=int64(-1, -1)),
        "shape that does not fit",
    ),
    "a new shape with 0": (
        graph([helper.make_node("Reshape", ["pixels", "s"], ["y"])], s=int64(0, -1)),
        "shape that does not fit",
    ),
    "a shape of nine dimensions": (
        graph([helper.make_node("Reshape", ["pixels", "s"], ["y"])], s=int64(-1, *[1] * 8)),
        "is no shape",
    ),
    "a shape in floats": (
        graph([helper.make_node("Reshape", ["pixels", "s"], ["y"])], s=floats(2)),
        "is no shape",
    ),
    "a shape below 1": (
        graph([helper.make_node("Expand", ["pixels", "s"], ["y"])], s=int64(-5)),
        "that is none",
    ),
}


@pytest.mark.parametrize("name", ODD)
def test_what_none_of_ours_does_is_refused(name: str) -> None:
    data, reason = ODD[name]
    with pytest.raises(OnnxError, match=reason):
        check(data)


@pytest.mark.parametrize("kind", [TensorProto.DOUBLE, TensorProto.STRING, TensorProto.COMPLEX128])
def test_stored_types_that_no_network_of_ours_has_are_refused(kind: int) -> None:
    model = onnx.ModelProto.FromString(graph([FLAT]))
    model.graph.initializer.append(TensorProto(name="w", data_type=kind, dims=[2**20, 2**20]))
    with pytest.raises(OnnxError, match="has w in a type"):
        check(model.SerializeToString())


@pytest.mark.parametrize(
    "parts", [{}, {"raw_data": b"1234"}, {"float_data": [1.0]}, {"int32_data": [1] * (2**10)}]
)
def test_stored_tensors_shorter_than_their_shape_are_refused(parts: dict[str, Any]) -> None:
    model = onnx.ModelProto.FromString(graph([FLAT]))
    model.graph.initializer.append(TensorProto(name="w", data_type=1, dims=[2**20, 2**20], **parts))
    with pytest.raises(OnnxError, match="w is not as long as its shape says"):
        check(model.SerializeToString())


def test_a_file_that_costs_too_much_is_not_loaded(tmp_path: Path) -> None:
    nodes = [
        CAST,
        FLAT,
        helper.make_node("Gemm", ["flat", "w"], ["small"]),
        helper.make_node("Expand", ["one", "shape"], ["big"]),
        helper.make_node("MaxPool", ["big"], ["pooled"], kernel_shape=[20_000, 20_000]),
        helper.make_node("Reshape", ["pooled", "row"], ["nothing"]),
        helper.make_node("Add", ["small", "nothing"], ["probabilities"]),
    ]
    stored = {
        "w": floats(150528, 2),
        "one": floats(1, 1, 1, 1),
        "shape": int64(1, 1, 20_000, 20_000),
        "row": int64(1, 1),
    }
    path = write_model(tmp_path / "large.onnx", ("a", "b"), nodes, stored)
    with pytest.raises(ModelError, match=r"^large\.onnx computes more than .* values from its constants"):
        load_model(path, "cpu", 1)


def test_costs_are_counted() -> None:
    nodes = [
        FIRST,
        conv("x", "y", strides=[4, 4], pads=[2, 2, 2, 2], group=1),
        helper.make_node("MaxPool", ["y"], ["z"], kernel_shape=[3, 3], strides=[2, 2]),
        helper.make_node("Flatten", ["z"], ["f"]),
        helper.make_node("Gemm", ["f", "w"], ["g"], transB=1),
        helper.make_node("Mul", ["w", "w"], ["folded"]),
    ]
    run = onnxcost._Run(read(graph(nodes, kernels=floats(8, 3, 11, 11), w=floats(5, 8 * 27 * 27))), 2)
    run.check()
    picture, matrix = 224 * 224 * 3, 3 * 11 * 11 * 55 * 55
    assert [run.shapes[name] for name in "yzfg"] == [(2, 8, 55, 55), (2, 8, 27, 27), (2, 5832), (2, 5)]
    assert run.values == 2 * (2 * picture + 8 * 55 * 55 + 2 * 8 * 27 * 27 + 5)
    assert run.work == 2 * (8 * matrix + 8 * matrix + 8 * 8 * 27 * 27 * 9 + 5832 * 5)
    assert run.folded == prod((5, 5832))
