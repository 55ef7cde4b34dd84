"""Protobuf's wire format (https://protobuf.dev/programming-guides/encoding/), read within limits.

It is read by hand, because the package onnx is larger than this service. Nothing is copied and nothing
recurses: fields that are not needed are skipped.
"""

import struct
from collections.abc import Iterator
from typing import Final

MAX_BYTES: Final = 2**31 - 1  # protobuf's own limit
MAX_FIELDS: Final = 100_000  # ours have 3,000; limits the time that reading a file takes to 0.1 s
MAX_INTS: Final = 16  # of an attribute; the pads of eight dimensions
MAX_VARINT: Final = 10  # bytes

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5  # wire types

Value = int | bytes | memoryview  # a number; the bytes of a fixed size; a view of anything longer


class OnnxError(ValueError):
    """The file is not ONNX, or holds what is not allowed; the message continues after the file's name."""


class FieldReader:
    """Read the fields of messages, and limit their number per file."""

    def __init__(self) -> None:
        self._count = 0

    def fields_of(self, message: memoryview) -> Iterator[tuple[int, Value]]:
        """Yield (number, value) of every field; the value is an int, 4 or 8 bytes, or a memoryview.

        protobuf ignores a field whose wire type is not the expected one, so the three stay distinct.
        """
        at, end = 0, len(message)
        while at < end:
            self._count += 1
            if self._count > MAX_FIELDS:
                raise OnnxError("has more parts than any network of ours")
            tag, at = read_varint(message, at)
            number, wire = tag >> 3, tag & 7
            if not 0 < number < 1 << 29:
                raise OnnxError("is damaged: a field has no valid number")
            if wire == VARINT:
                value, at = read_varint(message, at)
                yield number, value
                continue
            if wire == BYTES:
                length, at = read_varint(message, at)
            elif wire in {FIXED32, FIXED64}:
                length = 4 if wire == FIXED32 else 8
            else:
                raise OnnxError("is damaged: a field has no valid type")
            if length > end - at:
                raise OnnxError("is cut off or damaged: a field is longer than what is left")
            part = message[at : at + length]
            yield number, part if wire == BYTES else bytes(part)
            at += length


def read_varint(message: memoryview, at: int) -> tuple[int, int]:
    """Read a number below 2^64; return it and the position after it."""
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


def read_varints(packed: memoryview) -> list[int]:
    """Read a few packed numbers. Raises OnnxError for more than any attribute or shape has."""
    if len(packed) > MAX_VARINT * MAX_INTS:
        raise OnnxError("is damaged: a list of numbers is too long")
    return read_all_varints(packed)


def read_all_varints(packed: memoryview) -> list[int]:
    numbers, at = [], 0
    while at < len(packed):
        value, at = read_varint(packed, at)
        numbers.append(value)
    return numbers


def as_bytes(value: Value) -> memoryview:
    if not isinstance(value, memoryview):
        raise OnnxError("is damaged: a number where there should be a text or a message")
    return value


def as_signed(value: Value) -> int:
    """Convert a varint, which is below 2^64, to int64."""
    if not isinstance(value, int):
        raise OnnxError("is damaged: no number where there should be one")
    return value - 2**64 if value >= 2**63 else value


def as_float(value: Value) -> float:
    if not isinstance(value, bytes) or len(value) != 4:
        raise OnnxError("is damaged: no float where there should be one")
    return float(struct.unpack("<f", value)[0])


def as_int(value: Value) -> int:
    if not isinstance(value, int) or value > MAX_BYTES:
        raise OnnxError("is damaged: no valid number where there should be one")
    return value


def as_text(value: Value) -> str:
    try:
        return str(as_bytes(value), "utf-8")
    except UnicodeDecodeError:
        raise OnnxError("is damaged: a text is not UTF-8") from None
