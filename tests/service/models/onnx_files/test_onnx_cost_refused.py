"""Tests that networks are refused which cost too much or have what none of ours has."""

import math
from itertools import pairwise
from pathlib import Path
from typing import Any

import onnx
import pytest
from onnx import NodeProto, TensorProto, helper

from service.errors import ModelError
from service.models.onnx_wire import OnnxError
from service.models.session import load_model
from tests.support.models.costs import CAST, FIRST, FLAT, check, conv, floats, graph, int64, lrn
from tests.support.models.small_models import write_model


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
    "many normalisations": (
        graph([FIRST, *(lrn("x", f"y{n}") for n in range(30))]),
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
def test_costly_network_is_refused(name: str) -> None:
    data, reason = COSTLY[name]
    with pytest.raises(OnnxError, match=reason):
        check(data)


def typed(kind: int, name: str = "strides") -> bytes:
    """Make a graph with strides of a type for which ONNX Runtime would use the default, 1."""
    node = conv("x", "y", kernel_shape=[3, 3], strides=[100, 100])
    next(a for a in node.attribute if a.name == name).type = kind
    return graph([FIRST, node], kernels=floats(1, 3, 3, 3))


LRN_REASON = "LRN with other values than our networks'"
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
    "an attribute of another type": (typed(onnx.AttributeProto.FLOATS), "not a list of integers"),
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
    "a normalisation over many channels": (graph([FIRST, lrn("x", "y", size=1001)]), LRN_REASON),
    "a normalisation without its size": (graph([FIRST, lrn("x", "y", size=None)]), LRN_REASON),
    "a normalisation with another alpha": (graph([FIRST, lrn("x", "y", alpha=1e-4)]), LRN_REASON),
    "a normalisation with the default alpha": (graph([FIRST, lrn("x", "y", alpha=None)]), LRN_REASON),
    "a normalisation by NaN": (graph([FIRST, lrn("x", "y", alpha=math.nan)]), LRN_REASON),
    "a normalisation by a large power": (graph([FIRST, lrn("x", "y", beta=1e30)]), LRN_REASON),
    "a normalisation with a bias of 0": (graph([FIRST, lrn("x", "y", bias=0.0)]), LRN_REASON),
    "a normalisation with an integer as its bias": (graph([FIRST, lrn("x", "y", bias=2)]), LRN_REASON),
    "a normalisation with another attribute": (
        graph([FIRST, lrn("x", "y", mode=1)]),
        "LRN with the attribute mode",
    ),
    "a normalisation of rows": (graph([FLAT, lrn("flat", "y")]), "LRN of a shape"),
    "no matrices": (
        graph([helper.make_node("Gemm", ["pixels", "w"], ["y"])], w=floats(5, 5)),
        "not matrices",
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
        "is not a shape",
    ),
    "a shape in floats": (
        graph([helper.make_node("Reshape", ["pixels", "s"], ["y"])], s=floats(2)),
        "is not a shape",
    ),
    "a shape below 1": (
        graph([helper.make_node("Expand", ["pixels", "s"], ["y"])], s=int64(-5)),
        "an invalid shape",
    ),
}


@pytest.mark.parametrize("name", ODD)
def test_network_unlike_ours_is_refused(name: str) -> None:
    data, reason = ODD[name]
    with pytest.raises(OnnxError, match=reason):
        check(data)


@pytest.mark.parametrize("kind", [TensorProto.DOUBLE, TensorProto.STRING, TensorProto.COMPLEX128])
def test_unsupported_stored_types_are_refused(kind: int) -> None:
    model = onnx.ModelProto.FromString(graph([FLAT]))
    model.graph.initializer.append(TensorProto(name="w", data_type=kind, dims=[2**20, 2**20]))
    with pytest.raises(OnnxError, match="has w in a type that is not supported"):
        check(model.SerializeToString())


@pytest.mark.parametrize(
    "parts", [{}, {"raw_data": b"1234"}, {"float_data": [1.0]}, {"int32_data": [1] * (2**10)}]
)
def test_stored_tensors_shorter_than_their_shape_are_refused(parts: dict[str, Any]) -> None:
    model = onnx.ModelProto.FromString(graph([FLAT]))
    model.graph.initializer.append(TensorProto(name="w", data_type=1, dims=[2**20, 2**20], **parts))
    with pytest.raises(OnnxError, match="w is not as long as its shape says"):
        check(model.SerializeToString())


def test_costly_file_is_not_loaded(tmp_path: Path) -> None:
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
