"""What an ONNX file holds, read before ONNX Runtime sees it, and the rule by which it is refused.

A file may come from anywhere. Only what `training/graph.py` can write is let in: its operators, no graph
inside a node (loops, branches), no functions, and no tensor that lies in another file, which a path inside
the model could be pointed at.

The format is protobuf (https://protobuf.dev/programming-guides/encoding/) with the fields of onnx.proto.
It is read by hand, because the package onnx is larger than this service. Nothing is copied and nothing
nests: bytes that are asked for no further are stepped over.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from math import prod
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

OPSETS: Final = (17, 18)
# fmt: off
OPERATORS: Final = frozenset((
    "Add", "AveragePool", "Cast", "Conv", "DequantizeLinear", "Div", "Expand",
    "Flatten", "Gemm", "Identity", "MaxPool", "Mul", "Pow", "QuantizeLinear",
    "Relu", "Reshape", "Softmax", "Sqrt", "Sub", "Tanh", "Transpose",
))
# fmt: on
MOST_BYTES: Final = 2**31 - 1  # protobuf's own limit
MOST_FIELDS: Final = 100_000  # ours have 3,000; bounds the time that a file can take, to 0.1 s
MOST_DIMENSIONS: Final = 8
LONGEST_VARINT: Final = 10  # bytes

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5  # wire types
# onnx.proto: TensorProto.DataType -> numpy's, and the field that holds the values if `raw_data` does not
TYPES: Final[dict[int, tuple[np.dtype[Any], int]]] = {
    1: (np.dtype("<f4"), 4),
    3: (np.dtype("i1"), 5),
    10: (np.dtype("<f2"), 5),
}


class OnnxError(ValueError):
    """The file is no ONNX file, or one that is not let in; the message goes on after the file's name."""


@dataclass
class Tensor:
    """An initializer, its values not yet looked at: `raw` in `raw_data`, `typed` in the type's own field,
    packed or one at a time.
    """

    name: str = ""
    kind: int = 0
    shape: list[int] = field(default_factory=list)
    raw: memoryview | None = None
    typed: list[tuple[int, int | memoryview]] = field(default_factory=list)

    def values(self) -> NDArray[Any]:
        """float32, float16 or int8 in its shape. Raises OnnxError for other types and for a length that
        the shape does not have.
        """
        if self.kind not in TYPES:
            raise OnnxError(f"has {self.name} in a type that is not read here")
        dtype, number = TYPES[self.kind]
        count, parts = prod(self.shape), [value for n, value in self.typed if n == number]
        if sum(1 if isinstance(part, int) else len(part) for part in parts) > LONGEST_VARINT * count:
            parts = []  # far too long to be read at all
        data = bytes(self.raw) if self.raw is not None else b"".join(_chunk(p, dtype) for p in parts)
        if len(data) != count * dtype.itemsize:
            raise OnnxError(f"is damaged: {self.name} is not as long as its shape says")
        return np.frombuffer(data, dtype).reshape(self.shape)


@dataclass
class OnnxFile:
    """`operators` are the kinds of node, with their domain before a colon where they have one."""

    opsets: dict[str, int] = field(default_factory=dict)
    operators: set[str] = field(default_factory=set)
    metadata: dict[str, str] = field(default_factory=dict)
    initializers: dict[str, Tensor] = field(default_factory=dict)


def read(data: bytes) -> OnnxFile:
    """Raises OnnxError if the file is damaged or holds what is never let in."""
    return _Reader().model(memoryview(data))


def check(file: OnnxFile) -> None:
    """Raises OnnxError unless the file holds what ours do."""
    if set(file.opsets) != {""} or file.opsets[""] not in OPSETS:
        found = ", ".join(f"{domain or 'ai.onnx'} {v}" for domain, v in sorted(file.opsets.items()))
        raise OnnxError(f"is of opset {found or 'none'}; only {OPSETS[0]} and {OPSETS[1]} are served")
    if strange := sorted(file.operators - OPERATORS):
        raise OnnxError(f"has operators that no exported network has: {', '.join(strange)[:200]}")


class _Reader:
    """Counts the fields of one file."""

    def __init__(self) -> None:
        self.fields = 0

    def of(self, message: memoryview) -> Iterator[tuple[int, int | memoryview]]:
        """(number, value) of every field: an int, or the bytes of anything longer."""
        at, end = 0, len(message)
        while at < end:
            self.fields += 1
            if self.fields > MOST_FIELDS:
                raise OnnxError("has more parts than any network of ours")
            tag, at = _varint(message, at)
            number, wire = tag >> 3, tag & 7
            if not 0 < number < 1 << 29:
                raise OnnxError("is damaged: a field has no valid number")
            if wire == VARINT:
                value, at = _varint(message, at)
                yield number, value
                continue
            if wire == BYTES:
                length, at = _varint(message, at)
            elif wire in {FIXED32, FIXED64}:
                length = 4 if wire == FIXED32 else 8
            else:
                raise OnnxError("is damaged: a field has no valid type")
            if length > end - at:
                raise OnnxError("is cut off or damaged: a field is longer than what is left")
            yield number, message[at : at + length]
            at += length

    def model(self, message: memoryview) -> OnnxFile:
        file = OnnxFile()
        for number, value in self.of(message):
            if number == 7:
                self.graph(_bytes(value), file)
            elif number == 8:
                domain, version = self.opset(_bytes(value))
                if domain in file.opsets:
                    raise OnnxError("names an opset twice")
                file.opsets[domain] = version
            elif number == 14:
                key, text = self.entry(_bytes(value))
                if key in file.metadata:
                    raise OnnxError(f"has the metadata {key[:40]} twice")
                file.metadata[key] = text
            elif number in {20, 25}:
                raise OnnxError("has functions or a graph for training, which are not served")
        if not file.operators:
            raise OnnxError("is no ONNX model: it has no graph")
        return file

    def opset(self, message: memoryview) -> tuple[str, int]:
        domain, version = "", 0
        for number, value in self.of(message):
            if number == 1:
                domain = _domain(value)
            elif number == 2:
                version = _int(value)
        return domain, version

    def entry(self, message: memoryview) -> tuple[str, str]:
        found = {1: "", 2: ""}
        for number, value in self.of(message):
            if number in found:
                found[number] = _text(value)
        return found[1], found[2]

    def graph(self, message: memoryview, file: OnnxFile) -> None:
        for number, value in self.of(message):
            if number == 1:
                file.operators.add(self.node(_bytes(value)))
            elif number == 5:
                tensor = self.tensor(_bytes(value))
                if tensor.name in file.initializers:
                    raise OnnxError(f"has the tensor {tensor.name[:40]} twice")
                file.initializers[tensor.name] = tensor
            elif number == 15:
                raise OnnxError("has sparse tensors, which are not served")

    def node(self, message: memoryview) -> str:
        kind = domain = ""
        for number, value in self.of(message):
            if number == 4:
                kind = _text(value)
            elif number == 7:
                domain = _domain(value)
            elif number == 5:
                self.attribute(_bytes(value))
        return f"{domain}:{kind}" if domain else kind

    def attribute(self, message: memoryview) -> None:
        for number, value in self.of(message):
            if number in {5, 10}:
                self.tensor(_bytes(value))
            elif number in {6, 11}:
                raise OnnxError("has a graph inside a node (a loop or a branch), which is not served")
            elif number in {22, 23}:
                raise OnnxError("has sparse tensors, which are not served")

    def tensor(self, message: memoryview) -> Tensor:
        tensor = Tensor()
        for number, value in self.of(message):
            if number == 1:
                if not isinstance(value, int) and len(value) > LONGEST_VARINT * MOST_DIMENSIONS:
                    raise OnnxError("is damaged: a tensor has too many dimensions")
                tensor.shape += [value] if isinstance(value, int) else _varints(value)
                if len(tensor.shape) > MOST_DIMENSIONS or max(tensor.shape, default=0) > MOST_BYTES:
                    raise OnnxError("is damaged: a tensor has no valid shape")
            elif number == 2:
                tensor.kind = _int(value)
            elif number in {4, 5}:
                tensor.typed.append((number, value))
            elif number == 8:
                tensor.name = _text(value)
            elif number == 9:
                tensor.raw = _bytes(value)
            elif number == 13 or (number == 14 and value != 0):
                raise OnnxError("has a tensor in another file; export it as one file")
        return tensor


def _varint(message: memoryview, at: int) -> tuple[int, int]:
    """-> the number, below 2^64, and where it ends."""
    value = 0
    for shift in range(0, 70, 7):
        if at >= len(message):
            raise OnnxError("is cut off or damaged: a number has no end")
        byte = message[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value & (2**64 - 1), at
    raise OnnxError("is damaged: a number is too long")


def _varints(packed: memoryview) -> list[int]:
    found, at = [], 0
    while at < len(packed):
        value, at = _varint(packed, at)
        found.append(value)
    return found


def _chunk(value: int | memoryview, dtype: np.dtype[Any]) -> bytes:
    """Little-endian values of `dtype` from a typed field: int32_data holds int8, and float16's bits."""
    if dtype == np.float32:
        return bytes(_bytes(value))
    numbers = [value] if isinstance(value, int) else _varints(value)
    bits = np.array(numbers, np.uint64).astype(f"<u{dtype.itemsize}")  # keeps the lowest
    return bits.tobytes()


def _bytes(value: int | memoryview) -> memoryview:
    if isinstance(value, int):
        raise OnnxError("is damaged: a number where there should be a text or a message")
    return value


def _int(value: int | memoryview) -> int:
    if not isinstance(value, int) or value > MOST_BYTES:
        raise OnnxError("is damaged: no valid number where there should be one")
    return value


def _text(value: int | memoryview) -> str:
    try:
        return str(_bytes(value), "utf-8")
    except UnicodeDecodeError:
        raise OnnxError("is damaged: a text is not UTF-8") from None


def _domain(value: int | memoryview) -> str:
    """`ai.onnx` is another word for the empty one."""
    text = _text(value)
    return "" if text == "ai.onnx" else text
