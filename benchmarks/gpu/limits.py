"""Measure what a GPU can do in ONNX Runtime, and add up the least time of a network's layers."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from onnx import TensorProto, helper

from benchmarks.gpu.resident import Resident
from service.models.cuda import GpuOptions
from service.models.onnx_file import OnnxFile

SIDE: Final = 8192  # rows and columns of the matrices
NUMBERS: Final = 1 << 27  # float32 numbers that are read and written to measure bandwidth
SECONDS: Final = 0.1
MEMORY: Final = "memory, read and written"  # the name of the bandwidth among the rates
# How many times each kernel of a layer is applied; a fully connected layer is applied once.
POSITIONS: Final = {"conv1": 55**2, "conv2": 27**2, "conv3": 13**2, "conv4": 13**2, "conv5": 13**2}
BYTES: Final = {"fp32": 4, "fp16": 2, "int8": 4}  # on a GPU, int8 weights are converted to float32


@dataclass(frozen=True)
class Layer:
    """The weights and the work of one layer."""

    name: str
    weights: int
    multiply_adds: int  # per image


def layers(file: OnnxFile) -> list[Layer]:
    """Return the layers of one of our model files, from the shapes of its weights."""
    result = []
    for name, tensor in file.initializers.items():
        layer = name.split(".")[0]
        if name in {f"{layer}.weight", f"{layer}.weight.int8"}:
            count = int(np.prod(tensor.shape))
            result.append(Layer(layer, count, count * POSITIONS.get(layer, 1)))
    return result


def min_seconds(
    network: list[Layer], precision: str, batch: int, multiply_adds_per_s: float, bytes_per_s: float
) -> float:
    """Return the sum over the layers of the larger of two times: computing, and reading the weights."""
    return sum(
        max(
            batch * layer.multiply_adds / multiply_adds_per_s,
            layer.weights * BYTES[precision] / bytes_per_s,
        )
        for layer in network
    )


def kind_of(precision: str, tf32: bool) -> str:
    """Name an arithmetic, such as "fp32, TF32"."""
    return f"{precision}, TF32" if tf32 else precision


def measure_card(runtime: Any, side: int = SIDE, count: int = NUMBERS) -> Iterator[tuple[str, float]]:
    """Yield the GPU's bandwidth in bytes/s, then its multiply-adds/s by arithmetic. Raises NoGpu."""
    yield MEMORY, bandwidth(runtime, count)
    for precision, tf32 in (("fp16", False), ("fp32", False), ("fp32", True)):
        yield kind_of(precision, tf32), peak(precision, tf32, runtime, side)


def bandwidth(runtime: Any, count: int) -> float:
    """Return the bytes per second that are read and written, the best run's."""
    return 8 * count / _best("Relu", [_random(count)], "fp32", GpuOptions(), runtime)


def peak(precision: str, tf32: bool, runtime: Any, side: int) -> float:
    """Return the multiply-adds per second of a square matrix product, the best run's."""
    matrix = _random(side, side).astype(np.float16 if precision == "fp16" else np.float32)
    return side**3 / _best("MatMul", [matrix, matrix], precision, GpuOptions(tf32=tf32), runtime)


def _random(*shape: int) -> Any:
    """Return random numbers: zeros take less power, and so are multiplied at a higher clock rate."""
    return np.random.default_rng(0).random(shape, np.float32) - 0.5


def _best(kind: str, operands: list[Any], precision: str, gpu: GpuOptions, runtime: Any) -> float:
    """Return the least seconds of a node whose output has the shape of its first operand."""
    shape, dtype = list(operands[0].shape), operands[0].dtype
    element = TensorProto.FLOAT16 if dtype == np.float16 else TensorProto.FLOAT
    inputs = {f"x{number}": values for number, values in enumerate(operands)}
    *infos, y = (helper.make_tensor_value_info(name, element, shape) for name in (*inputs, "y"))
    graph = helper.make_graph([helper.make_node(kind, list(inputs), ["y"])], kind, infos, [y])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    session = Resident(model.SerializeToString(), precision, gpu, runtime)
    return min(session.times(inputs, "y", shape, dtype.type, SECONDS))
