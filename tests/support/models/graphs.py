"""Graphs of the package onnx: every network that training exports, and a small one of all fields."""

import itertools
from collections.abc import Sequence
from typing import Final

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from contract.trust import UNFAMILIARITY
from service.models.onnx_file import OnnxFile
from tests.support.checkout import ROOT
from training.export.graph import PRECISIONS, Array, Graph, Rounding, build_graph
from training.export.unfamiliarity import (
    POOLS,
    Features,
    Neighbours,
    add_features,
    add_score,
    add_unfamiliarity,
    extend,
)
from training.model import AlexNet, Variant, weighted_layers

SHIPPED = ROOT / "models" / "flowers17.onnx"
KNOTS: Final = np.linspace(-20, 5, 101)  # of scores: from the lowest to the highest that are likely


def kinds(graph: onnx.GraphProto) -> set[str]:
    return {f"{n.domain}:{n.op_type}" if n.domain not in {"", "ai.onnx"} else n.op_type for n in graph.node}


def compare(file: OnnxFile, model: onnx.ModelProto) -> None:
    """Assert that the file was read as the package onnx reads it and has nothing that is not allowed."""
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
    """Build every graph that training can write: architectures, switches, precisions, int8 layers."""
    graphs = []
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
        rounding = rounding_of_all(network) if integer else Rounding()
        graphs.append(build_graph(network, [1.0] * 3, [1.0] * 3, precision, rounding))
        if variant == Variant():
            for background in (0, 3):
                graph = build_graph(network, [1.0] * 3, [1.0] * 3, precision, rounding)
                graphs.append(add_part(graph, precision, background=background))
    assert len(graphs) > 20
    return graphs


def rounding_of_all(network: AlexNet) -> Rounding:
    """Make every layer of an int8 graph compute in integers, with activations in steps of 1."""
    names = [name for name, _layer in weighted_layers(network)]
    points = ["centred", *names, "conv1.norm", "conv2.norm"]
    return Rounding(frozenset(names), {p: 1.0 for p in points if p != "fc8"})


def add_part(
    model: onnx.ModelProto,
    precision: str,
    references: int = 5,
    background: int = 3,
    knots: Array = KNOTS,
    shape: Sequence[int | str] = ("N",),
) -> onnx.ModelProto:
    """Add the output `unfamiliarity` to the model, from random neighbours, and declare its `shape`."""
    (conv5,) = (output for output in model.graph.output if output.name == "conv5")
    channels = conv5.type.tensor_type.shape.dim[1].dim_value
    graph, rng = Graph(precision), np.random.default_rng(0)

    def features(count: int) -> Features:
        vectors = {part: rng.random((count, channels)) for part in POOLS}
        return {part: v / np.linalg.norm(v, axis=1, keepdims=True) for part, v in vectors.items()}

    add_features(graph, channels)
    add_score(graph, Neighbours(features(references), features(background)))
    add_unfamiliarity(graph, knots)
    extend(model, graph, {UNFAMILIARITY: shape})
    return model


def small() -> onnx.ModelProto:
    """Build a model of a few hundred bytes that has every kind of field that is read."""
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


def varint(value: int) -> bytes:
    encoded = bytearray()
    while value > 0x7F:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*encoded, value])
