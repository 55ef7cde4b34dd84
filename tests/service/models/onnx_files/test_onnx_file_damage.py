"""Tests of model files that are damaged or malicious."""

import time
from typing import Any

import numpy as np
import onnx
import pytest
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, numpy_helper

from service.models import onnx_file
from service.models.onnx_file import Tensor, read
from service.models.onnx_wire import OnnxError
from tests.support.models.graphs import SHIPPED, compare, small, varint

LARGE_MODEL_BYTES = small().SerializeToString()


@st.composite
def damaged(draw: st.DrawFn) -> bytes:
    data = bytearray(LARGE_MODEL_BYTES)
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
def test_damaged_files_are_refused_or_read_as_by_the_package_onnx(data: bytes) -> None:
    try:
        file = read(data)
    except OnnxError:
        return
    try:
        model = onnx.ModelProto.FromString(data)
    except DecodeError:
        return  # protobuf refuses more, and so will ONNX Runtime
    compare(file, model)
    for tensor in model.graph.initializer:
        try:
            values = file.initializers[tensor.name].values()
        except OnnxError:
            continue
        np.testing.assert_array_equal(values, numpy_helper.to_array(tensor))


@settings(max_examples=300, deadline=None)
@given(st.integers(0, SHIPPED.stat().st_size - 1))
def test_truncated_file_is_refused_or_lacks_its_end(end: int) -> None:
    try:
        file = read(SHIPPED.read_bytes()[:end])
    except OnnxError:
        return
    assert not file.opsets or not file.metadata  # which follow the graph


@given(st.binary(max_size=300))
def test_random_bytes_are_refused(data: bytes) -> None:
    with pytest.raises(OnnxError):
        onnx_file.check(read(data))


def nested(depth: int) -> bytes:
    """Nest graphs in attributes of nodes of graphs."""
    inner = b""
    for _level in range(depth):
        for number in (6, 5, 1):
            inner = bytes([number << 3 | 2]) + varint(len(inner)) + inner
    return bytes([7 << 3 | 2]) + varint(len(inner)) + inner


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
def test_malicious_files_are_refused_quickly(name: str) -> None:
    data, reason = BOMBS[name]
    started = time.thread_time()
    with pytest.raises(OnnxError, match=reason):
        read(data)
    assert time.thread_time() - started < 5  # reading all of half a million fields would take longer


def tensor_of(**parts: Any) -> Tensor:
    return onnx_file._Reader().tensor(memoryview(TensorProto(**parts).SerializeToString()))


def test_false_shapes_are_refused() -> None:
    for shape in ([2**31], [-1], [1] * 9):
        with pytest.raises(OnnxError, match="no valid shape"):
            tensor_of(name="w", data_type=1, dims=shape)
    packed = bytes([1 << 3 | 2]) + varint(1_000_000) + b"\x01" * 1_000_000
    with pytest.raises(OnnxError, match="a list of numbers is too long"):
        onnx_file._Reader().tensor(memoryview(packed))
    for parts in ({"raw_data": b"1234"}, {"float_data": [0.0] * 3}, {"float_data": [0.0] * 10_000}, {}):
        with pytest.raises(OnnxError, match="not as long as its shape says"):
            tensor_of(name="w", data_type=1, dims=[2**31 - 1, 2**31 - 1], **parts).values()
        with pytest.raises(OnnxError, match="not as long as its shape says"):
            tensor_of(name="w", data_type=1, dims=[2], **parts).values()


@pytest.mark.parametrize(("wire", "size"), [(5, 4), (1, 8)])
def test_fixed_size_numbers_are_not_read_as_packed(wire: int, size: int) -> None:
    """protobuf ignores a field of the wrong wire type, so it must not be read as a shape here."""
    shape = bytes([1 << 3 | wire]) + b"\x01" * size
    with pytest.raises(OnnxError, match="a number where there should be"):
        onnx_file._Reader().tensor(memoryview(shape))
    ints = bytes([8 << 3 | wire]) + b"\x01" * size
    with pytest.raises(OnnxError, match="a number where there should be"):
        onnx_file._Reader().attribute(memoryview(ints))
