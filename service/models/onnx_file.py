"""Parse an ONNX file before ONNX Runtime does, and refuse anything our exporter cannot write.

A file may come from anywhere. Only what `training/export` can write is allowed: its operators, no
graph in a node (loops, branches), no functions, and no tensor stored in another file, because its path
could point at any file of the server.

The format is protobuf (`onnx_wire`) with the fields of onnx.proto.
"""

from dataclasses import dataclass, field
from math import prod
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from service.models.onnx_wire import (
    MAX_BYTES,
    MAX_INTS,
    MAX_VARINT,
    FieldReader,
    OnnxError,
    Value,
    as_bytes,
    as_float,
    as_int,
    as_signed,
    as_text,
    read_all_varints,
    read_varints,
)

MAX_DIMENSIONS: Final = 8
OPSETS: Final = (17, 18)
# fmt: off
OPERATORS: Final = frozenset((
    "Add", "AveragePool", "Cast", "Conv", "DequantizeLinear", "Div", "Exp", "Expand",
    "Flatten", "Gemm", "Identity", "LRN", "Log", "MaxPool", "Mul", "Pow", "QuantizeLinear",
    "Relu", "Reshape", "Softmax", "Sqrt", "Sub", "Tanh", "Transpose",
))
# fmt: on
# onnx.proto: TensorProto.DataType -> numpy's, and the field that holds the values if `raw_data` does not
TYPES: Final[dict[int, tuple[np.dtype[Any], int]]] = {
    1: (np.dtype("<f4"), 4),
    2: (np.dtype("u1"), 5),
    3: (np.dtype("i1"), 5),
    6: (np.dtype("<i4"), 5),
    7: (np.dtype("<i8"), 7),
    10: (np.dtype("<f2"), 5),
}
FLOAT, INT, INTS = 1, 2, 7  # AttributeProto.AttributeType


@dataclass
class Tensor:
    """An initializer with its values not yet decoded.

    They are in `raw` (the field raw_data), or in `typed` (the type's own field, packed or one at a time).
    """

    name: str = ""
    kind: int = 0
    shape: list[int] = field(default_factory=list)
    raw: memoryview | None = None
    typed: list[tuple[int, Value]] = field(default_factory=list)

    def values(self) -> NDArray[Any]:
        """Decode the values in their shape. Raises OnnxError as `require_values` does."""
        self.require_values()
        dtype, number = TYPES[self.kind]
        parts = [value for n, value in self.typed if n == number]
        data = bytes(self.raw) if self.raw is not None else b"".join(_chunk(p, dtype) for p in parts)
        if len(data) != prod(self.shape) * dtype.itemsize:
            raise OnnxError(f"is damaged: {self.name[:40]} is not as long as its shape says")
        return np.frombuffer(data, dtype).reshape(self.shape)

    def require_values(self) -> None:
        """Raise OnnxError if type, shape and length of the values contradict each other."""
        if self.kind not in TYPES:
            raise OnnxError(f"has {self.name[:40]} in a type that is not supported")
        dtype, number = TYPES[self.kind]
        count = prod(self.shape)
        if self.raw is not None:
            fits = len(self.raw) == count * dtype.itemsize
        else:
            parts = [value for n, value in self.typed if n == number]
            stored = sum(1 if isinstance(part, int) else len(part) for part in parts)
            fits = stored == 4 * count if number == 4 else count <= stored <= MAX_VARINT * count
        if not fits:
            raise OnnxError(f"is damaged: {self.name[:40]} is not as long as its shape says")


@dataclass
class Node:
    """A node of the graph; `kind` is its operator, after its domain and a colon if it has one.

    `attributes` are None if they are neither an integer nor a list of integers; `floats` has the values of
    those that are a float.
    """

    kind: str
    inputs: list[str]
    outputs: list[str]
    attributes: dict[str, int | list[int] | None]
    floats: dict[str, float] = field(default_factory=dict)


@dataclass
class OnnxFile:
    """The parts of an ONNX file that are checked or used."""

    opsets: dict[str, int] = field(default_factory=dict)
    nodes: list[Node] = field(default_factory=list)
    metadata: dict[str, str] = field(default_factory=dict)
    initializers: dict[str, Tensor] = field(default_factory=dict)
    outputs: list[str] = field(default_factory=list)

    @property
    def operators(self) -> set[str]:
        return {node.kind for node in self.nodes}


def read(data: bytes) -> OnnxFile:
    """Read a file. Raises OnnxError if it is damaged or holds what is never allowed."""
    return _Reader().model(memoryview(data))


def check(file: OnnxFile) -> None:
    """Raise OnnxError if the file's opset or operators are not those of our networks."""
    if set(file.opsets) != {""} or file.opsets[""] not in OPSETS:
        opsets = ", ".join(f"{domain or 'ai.onnx'} {v}" for domain, v in sorted(file.opsets.items()))
        raise OnnxError(f"is of opset {opsets or 'none'}; only {OPSETS[0]} and {OPSETS[1]} are served")
    if unknown := sorted(file.operators - OPERATORS):
        raise OnnxError(f"has operators that no exported network has: {', '.join(unknown)[:200]}")


class _Reader(FieldReader):
    """Reads the messages of onnx.proto."""

    def model(self, message: memoryview) -> OnnxFile:
        file = OnnxFile()
        for number, value in self.fields_of(message):
            if number == 7:
                self.graph(as_bytes(value), file)
            elif number == 8:
                domain, version = self.opset(as_bytes(value))
                if domain in file.opsets:
                    raise OnnxError("names an opset twice")
                file.opsets[domain] = version
            elif number == 14:
                key, text = self.entry(as_bytes(value))
                if key in file.metadata:
                    raise OnnxError(f"has the metadata {key[:40]} twice")
                file.metadata[key] = text
            elif number in {20, 25}:
                raise OnnxError("has functions or a graph for training, which are not served")
        if not file.nodes:
            raise OnnxError("is not an ONNX model: it has no graph")
        return file

    def opset(self, message: memoryview) -> tuple[str, int]:
        domain, version = "", 0
        for number, value in self.fields_of(message):
            if number == 1:
                domain = _domain(value)
            elif number == 2:
                version = as_int(value)
        return domain, version

    def entry(self, message: memoryview) -> tuple[str, str]:
        texts = {1: "", 2: ""}
        for number, value in self.fields_of(message):
            if number in texts:
                texts[number] = as_text(value)
        return texts[1], texts[2]

    def graph(self, message: memoryview, file: OnnxFile) -> None:
        for number, value in self.fields_of(message):
            if number == 1:
                file.nodes.append(self.node(as_bytes(value)))
            elif number == 5:
                tensor = self.tensor(as_bytes(value))
                if tensor.name in file.initializers:
                    raise OnnxError(f"has the tensor {tensor.name[:40]} twice")
                file.initializers[tensor.name] = tensor
            elif number == 12:
                file.outputs += (
                    as_text(name) for part, name in self.fields_of(as_bytes(value)) if part == 1
                )
            elif number == 15:
                raise OnnxError("has sparse tensors, which are not served")
            elif number == 13:
                raise OnnxError(
                    "declares shapes of values inside the graph, which no exported network does"
                )

    def node(self, message: memoryview) -> Node:
        kind = domain = ""
        node = Node("", [], [], {})
        for number, value in self.fields_of(message):
            if number == 1:
                node.inputs.append(as_text(value))
            elif number == 2:
                node.outputs.append(as_text(value))
            elif number == 4:
                kind = as_text(value)
            elif number == 7:
                domain = _domain(value)
            elif number == 5:
                name, ints, real = self.attribute(as_bytes(value))
                if name in node.attributes:
                    raise OnnxError(f"has the attribute {name[:40]} twice in a node")
                node.attributes[name] = ints
                if real is not None:
                    node.floats[name] = real
        node.kind = f"{domain}:{kind}" if domain else kind
        return node

    def attribute(self, message: memoryview) -> tuple[str, int | list[int] | None, float | None]:
        """Read the name and the value: an integer or a list of integers, or a float; else None."""
        name, kind, integer, real = "", 0, 0, 0.0
        integers: list[int] = []
        for number, value in self.fields_of(message):
            if number == 1:
                name = as_text(value)
            elif number == 2:
                real = as_float(value)
            elif number == 3:
                integer = as_signed(value)
            elif number == 8:
                integers += (
                    [as_signed(value)]
                    if isinstance(value, int)
                    else map(as_signed, read_varints(as_bytes(value)))
                )
            elif number == 20:
                kind = as_int(value)
            elif number in {5, 10}:
                self.tensor(as_bytes(value))
            elif number in {6, 11}:
                raise OnnxError("has a graph inside a node (a loop or a branch), which is not served")
            elif number in {22, 23}:
                raise OnnxError("has sparse tensors, which are not served")
            if len(integers) > MAX_INTS:
                raise OnnxError(f"has too many numbers in the attribute {name[:40]} of a node")
        # ONNX Runtime uses the operator's default if the value is not of the declared type.
        return (
            name,
            integer if kind == INT else integers if kind == INTS else None,
            real if kind == FLOAT else None,
        )

    def tensor(self, message: memoryview) -> Tensor:
        tensor = Tensor()
        for number, value in self.fields_of(message):
            if number == 1:
                tensor.shape += [value] if isinstance(value, int) else read_varints(as_bytes(value))
                if len(tensor.shape) > MAX_DIMENSIONS or max(tensor.shape, default=0) > MAX_BYTES:
                    raise OnnxError("is damaged: a tensor has no valid shape")
            elif number == 2:
                tensor.kind = as_int(value)
            elif number in {4, 5, 7}:
                tensor.typed.append((number, value))
            elif number == 8:
                tensor.name = as_text(value)
            elif number == 9:
                tensor.raw = as_bytes(value)
            elif number == 13 or (number == 14 and value != 0):
                raise OnnxError("has a tensor in another file; export it as one file")
        return tensor


def _chunk(value: Value, dtype: np.dtype[Any]) -> bytes:
    """Return a typed field's values as little-endian `dtype`; int32_data holds int8 and float16 bits."""
    if dtype == np.float32:
        if isinstance(value, bytes) and len(value) == 4:  # a single value that is not packed
            return value
        return bytes(as_bytes(value))
    numbers = [value] if isinstance(value, int) else read_all_varints(as_bytes(value))
    bits = np.array(numbers, np.uint64).astype(f"<u{dtype.itemsize}")  # keeps the lowest bits
    return bits.tobytes()


def _domain(value: Value) -> str:
    """Read a domain; `ai.onnx` is an alias of the empty one."""
    text = as_text(value)
    return "" if text == "ai.onnx" else text
