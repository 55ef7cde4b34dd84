"""Build the ONNX graph of an AlexNet, node by node, in fp32, fp16 or int8.

The input is uint8 pixels; the graph subtracts the mean before conv1, whose zero padding then stands for the
average colour. The division by the standard deviation is folded into conv1's weights, which gives the same
result with padding.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from contract.recipe import DEFAULT_RECIPE
from training.model import LRN_ALPHA, LRN_K, LRN_SIZE, AlexNet, LocalResponseNorm, weighted_layers

OPSET: Final = 17
IR_VERSION: Final = 8  # as old as opset 17, so that older runtimes open the file
PRECISIONS: Final = ("fp32", "fp16", "int8")
TO_NHWC: Final = (0, 2, 3, 1)
TO_NCHW: Final = (0, 3, 1, 2)
PIXELS: Final = "centred"  # the name of the point before conv1
# Levels on either side of 0 of weights that are multiplied as integers. Processors without VNNI add two
# products in 16 bits: 2 * 255 * 64 fits, 2 * 255 * 127 would saturate and change the result.
WEIGHT_LEVELS: Final = 64

Array = NDArray[Any]


@dataclass(frozen=True)
class Rounding:
    """What an int8 graph computes in 8 bits.

    `layers` have integer weights. `steps` gives, for each point whose activations are rounded, the size of
    one level. A point is PIXELS, a layer's output such as "conv1", or its normalisation's, "conv1.norm".
    """

    layers: frozenset[str] = frozenset()
    steps: Mapping[str, float] = field(default_factory=dict)


class Graph:
    """Collect nodes and initializers; every method adds some and returns the name of the output."""

    def __init__(self, precision: str) -> None:
        self.precision = precision
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: list[onnx.TensorProto] = []

    def constant(self, name: str, value: Any, kind: Any = np.float32) -> str:
        """Add an initializer of the dtype `kind`."""
        self.initializers.append(numpy_helper.from_array(np.asarray(value, kind), name))
        return name

    def node(self, kind: str, inputs: Sequence[str], output: str, **attributes: Any) -> str:
        """Add a node of the operator `kind`."""
        self.nodes.append(helper.make_node(kind, inputs, [output], name=output, **attributes))
        return output

    def narrow(self, x: str) -> str:
        """Cast float32 to the precision that the graph computes in."""
        if self.precision != "fp16":
            return x
        return self.node("Cast", [x], f"{x}.fp16", to=TensorProto.FLOAT16)

    def wide(self, x: str, output: str) -> str:
        """Cast `x` back to float32, under the name `output`."""
        if self.precision != "fp16":
            return self.node("Identity", [x], output)
        return self.node("Cast", [x], output, to=TensorProto.FLOAT)

    def rounded(
        self, x: str, output: str, step: float | None, zero: int = 0, order: Sequence[int] | None = None
    ) -> str:
        """Round `x` to 0...255 levels of size `step` and back, and transpose it to `order`.

        Runtimes compute the layers between two of these in integers. Without a `step`, only transpose.
        """
        levels = []
        if step is not None:
            levels = [
                self.constant(f"{output}.step", step),
                self.constant(f"{output}.zero", zero, np.uint8),
            ]
            x = self.node("QuantizeLinear", [x, *levels], f"{output}.levels")
        if order is not None:
            x = self.node("Transpose", [x], f"{output}.transposed", perm=order)
        return self.node("DequantizeLinear", [x, *levels], f"{output}.rounded") if levels else x


def build_graph(
    model: AlexNet,
    mean: Sequence[float],
    std: Sequence[float],
    precision: str,
    rounding: Rounding = Rounding(),
) -> onnx.ModelProto:
    """Build the graph from images (N, 224, 224, 3) uint8 to probabilities (N, classes) float32.

    Further outputs, float32 after their activation: fc7 (N, F) and conv5 (N, C, 13, 13).
    fp16 computes in float16 except for the softmax, with one LRN node per normalisation.
    int8 stores every weight as int8 with a scale per output channel. The layers of `rounding` compute in
    integers, with weights of WEIGHT_LEVELS; the others widen their weights, which runtimes do once, when
    they load the file.
    """
    graph = Graph(precision)
    x = graph.node("Cast", ["images"], "pixels", to=TensorProto.FLOAT)
    # Expanded to an image's shape, to subtract without broadcasting over channels; runtimes do this once.
    shape = graph.constant("mean.shape", [1, *[DEFAULT_RECIPE.crop] * 2, 3], np.int64)
    centre = graph.node("Expand", [graph.constant("mean", [[[mean]]]), shape], "mean.expanded")
    x = graph.node("Sub", [x, centre], PIXELS)
    step = rounding.steps.get(PIXELS)
    x = graph.rounded(x, PIXELS, step, round(max(mean) / step) if step else 0, TO_NCHW)
    x = graph.narrow(x)
    for name, layer in weighted_layers(model):
        if name == "fc6":
            x = graph.node("Flatten", [x], "flat")
            x = graph.rounded(x, "flat", step)
        factor = np.array(std, np.float32).reshape(3, 1, 1) if name == "conv1" else np.ones((), np.float32)
        x = _layer(graph, x, name, layer, factor, step if name in rounding.layers else None)
        if name == "fc8":
            break
        x = graph.node("Relu" if model.variant.activation == "relu" else "Tanh", [x], f"{name}.activation")
        norm = {"conv1": model.norm1, "conv2": model.norm2}.get(name)
        step = rounding.steps.get(name)
        if isinstance(norm, LocalResponseNorm) and precision == "fp16":
            x = _norm_node(graph, x, name)
        elif isinstance(norm, LocalResponseNorm):
            x = graph.rounded(x, name, step, order=TO_NHWC)
            step = rounding.steps.get(f"{name}.norm")
            x = _norm_chain(graph, x, name, len(norm.k))
            x = graph.rounded(x, f"{name}.norm", step, order=TO_NCHW)
        else:
            x = graph.rounded(x, name, step)
        if name in {"conv5", "fc7"}:
            graph.wide(x, name)
        if name in {"conv1", "conv2", "conv5"}:
            x = graph.node("MaxPool", [x], f"{name}.pool", kernel_shape=[model.window] * 2, strides=[2, 2])
            x = graph.rounded(x, f"{name}.pool", step)
    graph.node("Softmax", [graph.wide(x, "logits")], "probabilities", axis=1)
    return _model_of(graph, model)


def _model_of(graph: Graph, model: AlexNet) -> onnx.ModelProto:
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


def _layer(
    graph: Graph, x: str, name: str, layer: nn.Conv2d | nn.Linear, std: Array, step: float | None
) -> str:
    """Add a layer; with `step`, the size of one level of `x`, it computes in integers."""
    assert layer.bias is not None
    weight, bias = layer.weight.detach().numpy() / std, layer.bias.detach().numpy()
    if graph.precision == "int8":
        operands = _int8(graph, name, weight, bias, step)
    else:
        kind = np.float16 if graph.precision == "fp16" else np.float32
        with np.errstate(over="ignore"):  # the export's parity check refuses infinities
            operands = (
                graph.constant(f"{name}.weight", weight, kind),
                graph.constant(f"{name}.bias", bias, kind),
            )
    if isinstance(layer, nn.Linear):
        return graph.node("Gemm", [x, *operands], f"{name}.linear", transB=1)
    return graph.node(
        "Conv",
        [x, *operands],
        f"{name}.linear",
        kernel_shape=list(layer.kernel_size),
        strides=list(layer.stride),
        pads=[int(layer.padding[0])] * 4,
        group=layer.groups,
    )


def _int8(graph: Graph, name: str, weight: Array, bias: Array, step: float | None) -> tuple[str, str]:
    """Add int8 weights with a scale per output channel -> the names of float32 weights and biases."""
    axes, max_level = tuple(range(1, weight.ndim)), 127 if step is None else WEIGHT_LEVELS
    scale = np.abs(weight).max(axes) / max_level
    if step is not None:  # the bias is part of the 32-bit sums and must fit
        scale = np.maximum(scale, np.abs(bias) / (step * 2**30))
    scale[scale == 0] = 1  # an all-zero kernel
    # A NaN weight makes its scale NaN, which the export's parity check refuses.
    levels = np.rint(np.nan_to_num(weight / np.expand_dims(scale, axes)))
    stored = graph.constant(f"{name}.weight.int8", levels, np.int8)
    if step is None:
        levels = graph.node("Cast", [stored], f"{name}.weight.levels", to=TensorProto.FLOAT)
        factor = graph.constant(f"{name}.weight.scale", np.expand_dims(scale, axes))
        return graph.node("Mul", [levels, factor], f"{name}.weight"), graph.constant(f"{name}.bias", bias)
    factor = graph.constant(f"{name}.weight.scale", scale)
    # ONNX Runtime 1.20 computes in integers only with explicit zero points.
    zeros = graph.constant(f"{name}.weight.zero", np.zeros_like(scale), np.int8)
    sums = graph.constant(f"{name}.bias.int32", np.rint(np.nan_to_num(bias / (step * scale))), np.int32)
    unit = graph.constant(f"{name}.bias.scale", step * scale)
    return (
        graph.node("DequantizeLinear", [stored, factor, zeros], f"{name}.weight", axis=0),
        graph.node("DequantizeLinear", [sums, unit], f"{name}.bias", axis=0),
    )


def _norm_node(graph: Graph, x: str, name: str) -> str:
    """Add the normalisation of (N, C, H, W) float16 as one node.

    On a GPU the chain's passes over memory cost more than all convolutions. Casts around the node would
    move five times its bytes and are not needed: cuDNN reads and writes float16 and computes in float32. On
    an H200 activations of up to 546 were normalised correctly, although squares in float16 overflow above
    255 (docs/decisions/009-own-onnx-graph.md). ONNX Runtime's CPU kernel takes float32 only, and gets casts
    when the file is loaded.
    """
    # ONNX divides alpha by the size.
    return graph.node(
        "LRN", [x], f"{name}.norm", size=LRN_SIZE, alpha=LRN_ALPHA * LRN_SIZE, beta=0.75, bias=LRN_K
    )


def _norm_chain(graph: Graph, x: str, name: str, channels: int) -> str:
    """Add the normalisation x / d^(3/4) of (N, H, W, C) float32, with d^(3/4) = sqrt(d) * sqrt(sqrt(d)).

    On a CPU this chain is faster than one LRN node. With the channels last, the sum over neighbours is a
    pooling along rows, cheaper than a convolution with a banded matrix; the transposition merges with the
    reordering that runtimes do around convolutions.
    """
    side = {"conv1": 55, "conv2": 27}[name]
    square = graph.node("Pow", [x, graph.constant(f"{name}.norm.two", 2)], f"{name}.norm.square")
    rows = graph.constant(f"{name}.norm.rows", [-1, 1, side, channels], np.int64)
    square = graph.node("Reshape", [square, rows], f"{name}.norm.as_rows")
    mean = graph.node(
        "AveragePool",
        [square],
        f"{name}.norm.mean",
        kernel_shape=[1, LRN_SIZE],
        pads=[0, LRN_SIZE // 2, 0, LRN_SIZE // 2],
        count_include_pad=1,
    )
    images = graph.constant(f"{name}.norm.images", [-1, side, side, channels], np.int64)
    mean = graph.node("Reshape", [mean, images], f"{name}.norm.as_images")
    alpha = graph.constant(f"{name}.norm.alpha", LRN_ALPHA * LRN_SIZE)
    d = graph.node("Mul", [mean, alpha], f"{name}.norm.weighted")
    d = graph.node("Add", [d, graph.constant(f"{name}.norm.k", LRN_K)], f"{name}.norm.d")
    root = graph.node("Sqrt", [d], f"{name}.norm.root")
    fourth_root = graph.node("Sqrt", [root], f"{name}.norm.fourth_root")
    power = graph.node("Mul", [root, fourth_root], f"{name}.norm.power")
    return graph.node("Div", [x, power], f"{name}.norm")
