"""The ONNX graph of an AlexNet, built node by node.

uint8 pixels go in and the arithmetic of the preprocessing is part of the graph. The mean is
subtracted before conv1, whose zero padding must mean "average colour"; the division by the deviation
is folded into conv1's weights, which padding does not notice.
"""

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from contract.recipe import DEFAULT_RECIPE
from training.model import AlexNet, LocalResponseNorm, weighted_layers

OPSET: Final = 17
IR_VERSION: Final = 8  # of opset 17's time, so that older runtimes open the file

Array = NDArray[Any]


class Graph:
    """Nodes and initializers as they are added; every method returns the name of its output."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: list[onnx.TensorProto] = []

    def constant(self, name: str, value: Array) -> str:
        self.initializers.append(numpy_helper.from_array(value, name))
        return name

    def node(self, kind: str, inputs: list[str], output: str, **attributes: Any) -> str:
        self.nodes.append(helper.make_node(kind, inputs, [output], name=output, **attributes))
        return output


def build_graph(
    model: AlexNet, mean: Sequence[float], std: Sequence[float], weights: str
) -> onnx.ModelProto:
    """images (N, 224, 224, 3) uint8 -> float32: probabilities (N, classes), fc7 (N, F), and conv5
    (N, C, 13, 13), both after their activation.

    With `weights` fp16 or int8 the file holds them so and widens them to float32 when it is loaded:
    Cast, and for int8 a scale per output channel. Every runtime folds that once; none needs kernels
    for it. What the rounding does to the model is done to `model` too, in place.
    """
    graph = Graph()
    x = graph.node("Cast", ["images"], "pixels", to=TensorProto.FLOAT)
    x = graph.node("Transpose", [x], "planes", perm=[0, 3, 1, 2])
    centre = graph.constant("mean", np.array(mean, dtype=np.float32).reshape(1, 3, 1, 1))
    x = graph.node("Sub", [x, centre], "centred")
    deviation = np.array(std, dtype=np.float32).reshape(3, 1, 1)
    for name, layer in weighted_layers(model):
        if name == "fc6":
            x = graph.node("Flatten", [x], "flat")
        x = _layer(
            graph, x, name, layer, weights, deviation if name == "conv1" else np.ones((), np.float32)
        )
        if name != "fc8":
            x = graph.node("Relu" if model.variant.activation == "relu" else "Tanh", [x], name)
        norm = {"conv1": model.norm1, "conv2": model.norm2}.get(name)
        if isinstance(norm, LocalResponseNorm):
            x = _norm(graph, x, name, norm)
        if name in {"conv1", "conv2", "conv5"}:
            x = graph.node("MaxPool", [x], f"{name}.pool", kernel_shape=[model.window] * 2, strides=[2, 2])
    graph.node("Softmax", [x], "probabilities", axis=1)

    size = DEFAULT_RECIPE.crop
    images = helper.make_tensor_value_info("images", TensorProto.UINT8, ["N", size, size, 3])
    shapes: dict[str, list[int]] = {
        "probabilities": [model.fc8.out_features],
        "fc7": [model.fc7.out_features],
        "conv5": [model.conv5.out_channels, 13, 13],
    }
    outputs = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", *shape])
        for name, shape in shapes.items()
    ]
    return helper.make_model(
        helper.make_graph(graph.nodes, "alexnet", [images], outputs, graph.initializers),
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=IR_VERSION,
        producer_name="alexnet",
    )


def _layer(graph: Graph, x: str, name: str, layer: nn.Conv2d | nn.Linear, weights: str, std: Array) -> str:
    assert layer.bias is not None
    values = layer.weight.detach().numpy() / std
    stored, rounded = _store(graph, f"{name}.weight", values, weights)
    layer.weight.data.numpy()[...] = rounded * std
    bias = graph.constant(f"{name}.bias", layer.bias.detach().numpy())
    if isinstance(layer, nn.Linear):
        return graph.node("Gemm", [x, stored, bias], f"{name}.linear", transB=1)
    pad = int(layer.padding[0])
    return graph.node(
        "Conv",
        [x, stored, bias],
        f"{name}.linear",
        kernel_shape=list(layer.kernel_size),
        strides=list(layer.stride),
        pads=[pad] * 4,
        group=layer.groups,
    )


def _store(graph: Graph, name: str, values: Array, weights: str) -> tuple[str, Array]:
    """-> the name of the float32 tensor in the graph, and its values after rounding."""
    if weights == "fp32":
        return graph.constant(name, values), values
    if weights == "fp16":
        half = values.astype(np.float16)
        stored = graph.constant(f"{name}.fp16", half)
        return graph.node("Cast", [stored], name, to=TensorProto.FLOAT), half.astype(np.float32)
    assert weights == "int8"
    axes = tuple(range(1, values.ndim))
    scale = np.abs(values).max(axes, keepdims=True).astype(np.float32) / 127
    scale[scale == 0] = 1  # a kernel of zeros
    # A NaN makes its scale NaN too, which the export's check finds.
    levels = np.rint(np.nan_to_num(values / scale)).astype(np.int8)
    stored = graph.constant(f"{name}.int8", levels)
    wide = graph.node("Cast", [stored], f"{name}.levels", to=TensorProto.FLOAT)
    factor = graph.constant(f"{name}.scale", scale)
    return graph.node("Mul", [wide, factor], name), levels.astype(np.float32) * scale


def _norm(graph: Graph, x: str, name: str, norm: LocalResponseNorm) -> str:
    """x / d^(3/4) with d^(3/4) = sqrt(d) * sqrt(sqrt(d)), d by a banded 1x1 convolution."""
    band = graph.constant(f"{name}.norm.band", norm.band.numpy())
    k = graph.constant(f"{name}.norm.k", norm.k.numpy())
    square = graph.node("Mul", [x, x], f"{name}.norm.square")
    d = graph.node("Conv", [square, band, k], f"{name}.norm.sum", kernel_shape=[1, 1])
    root = graph.node("Sqrt", [d], f"{name}.norm.root")
    fourth_root = graph.node("Sqrt", [root], f"{name}.norm.fourth_root")
    power = graph.node("Mul", [root, fourth_root], f"{name}.norm.power")
    return graph.node("Div", [x, power], f"{name}.norm")
