"""The Open Inference Protocol's requests: JSON, with tensors in it or, by the binary tensor data extension,
their bytes behind it. Knows numpy and the manifest's tensors; no HTTP, no model.

Nothing is allocated by a size that a request declares before the bytes at hand have been found to fit it.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from contract.manifest import Tensor
from service.errors import InvalidRequest
from service.http.body.json_fields import (
    MAX_JSON_VALUES,
    flag,
    from_base64,
    list_of_objects,
    parameters_of,
    read_json,
    said,
)

DATATYPES: Final = {"uint8": "UINT8", "float32": "FP32", "bytes": "BYTES"}
PREFIX: Final = 4  # bytes of the length before each element of a BYTES tensor

Value = NDArray[np.uint8] | list[bytes]


@dataclass(frozen=True)
class Output:
    """What is wanted of an output: as `binary` data or in the JSON; with `classification` k, the k
    highest values as "value:index:label" in place of the tensor.
    """

    tensor: Tensor
    binary: bool
    classification: int = 0


@dataclass(frozen=True)
class InferRequest:
    """`inputs` has UINT8 tensors as arrays, which may be views of the body, and BYTES tensors as lists;
    `timeout` is in s.
    """

    id: str | None
    inputs: dict[str, Value]
    outputs: tuple[Output, ...]
    timeout: float = math.inf

    @property
    def images(self) -> int:
        return sum(map(len, self.inputs.values()))


def parse_request(
    body: bytes, header_length: str | None, inputs: Sequence[Tensor], outputs: Sequence[Tensor], most: int
) -> InferRequest:
    """`header_length` is the header Inference-Header-Content-Length; `inputs` are alternatives, of which
    a request gives one, with 1 to `most` images; without a choice of its own it gets all `outputs`.
    Raises InvalidRequest.
    """
    size = _header_length(header_length, len(body))
    head = read_json(body[:size])
    rest = memoryview(body)[size:]
    parameters = parameters_of(head, "the request")
    name = head.get("id")
    if name is not None and not isinstance(name, str):
        raise InvalidRequest(f"id is {said(name)}; it must be a string")

    given: dict[str, Value] = {}
    for index, entry in enumerate(list_of_objects(head, "inputs")):
        where = f"inputs[{index}]"
        tensor = _named(entry, where, inputs, given)
        given[tensor.name], rest = _value(entry, where, tensor, most, rest, header_length is not None)
    if len(given) != 1:
        names = " or ".join(tensor.name for tensor in inputs)
        raise InvalidRequest(f"inputs has {len(given)} tensors; send one, {names}")
    if rest:
        raise InvalidRequest(f"{len(rest)} bytes lie behind the last tensor; binary_data_size says less")

    binary = flag(parameters, "binary_data_output", "parameters", False)
    wanted: dict[str, Output] = {}
    for index, entry in enumerate(list_of_objects(head, "outputs") if head.get("outputs") else ()):
        where = f"outputs[{index}]"
        tensor = _named(entry, where, outputs, wanted)
        wanted[tensor.name] = _output(entry, where, tensor, binary)
    chosen = tuple(wanted.values()) or tuple(Output(tensor, binary) for tensor in outputs)
    request = InferRequest(name, given, chosen, _timeout(parameters))
    _refuse_long_json(chosen, request.images)
    return request


def _header_length(given: str | None, body: int) -> int:
    if given is None:
        return body
    if not (given.isascii() and given.isdecimal() and len(given) < 16 and int(given) <= body):
        raise InvalidRequest(
            f"Inference-Header-Content-Length is {said(given)}; it must be the bytes of the JSON, at most "
            f"the body's {body}"
        )
    return int(given)


def _value(
    entry: dict[str, Any], where: str, tensor: Tensor, most: int, rest: memoryview, binary_allowed: bool
) -> tuple[Value, memoryview]:
    """-> the tensor, and the bytes behind its own."""
    parameters = parameters_of(entry, where)
    if wrong := next((key for key in parameters if key.startswith("shared_memory")), None):
        raise InvalidRequest(
            f"{where}.parameters has {said(wrong)[1:-1]}; send the tensor in the body instead"
        )
    datatype = DATATYPES[tensor.dtype]
    if entry.get("datatype") != datatype:
        raise InvalidRequest(
            f"{where}.datatype is {said(entry.get('datatype'))}; {tensor.name} takes {datatype}"
        )
    shape = _shape(entry, where, tensor, most)
    size = parameters.get("binary_data_size")
    if (size is None) == (entry.get("data") is None):
        raise InvalidRequest(f"{where} must have either data or parameters.binary_data_size")
    if size is None:
        return _from_json(entry["data"], f"{where}.data", shape), rest
    if not binary_allowed:
        raise InvalidRequest(
            f"{where} has binary_data_size, but the header Inference-Header-Content-Length is missing"
        )
    if type(size) is not int or not 0 <= size <= len(rest):
        raise InvalidRequest(
            f"{where}.parameters.binary_data_size is {said(size)}; {len(rest)} bytes are left in the body"
        )
    raw, rest = rest[:size], rest[size:]
    if tensor.dtype == "bytes":
        return _split(raw, where, shape[0]), rest
    if size != math.prod(shape):
        raise InvalidRequest(
            f"{where}.parameters.binary_data_size is {size}; shape {list(shape)} of {datatype} takes "
            f"{math.prod(shape)}"
        )
    return np.frombuffer(raw, np.uint8).reshape(shape), rest


def _shape(entry: dict[str, Any], where: str, tensor: Tensor, most: int) -> tuple[int, ...]:
    shape, wanted = entry.get("shape"), tensor.shape
    if (
        not isinstance(shape, list)
        or len(shape) != len(wanted)
        or not all(type(n) is int and m in {None, n} for n, m in zip(shape, wanted, strict=True))
    ):
        sizes = ", ".join("N" if n is None else str(n) for n in wanted)
        raise InvalidRequest(f"{where}.shape is {said(shape)}; {tensor.name} takes [{sizes}]")
    if not 1 <= shape[0] <= most:
        raise InvalidRequest(f"{where}.shape[0] is {said(shape[0])}; one request takes 1 to {most} images")
    return tuple(shape)


def _split(raw: memoryview, where: str, count: int) -> list[bytes]:
    """`count` elements, each behind its length."""
    elements: list[bytes] = []
    at = 0
    for index in range(count):
        size = int.from_bytes(raw[at : at + PREFIX], "little")
        if at + PREFIX + size > len(raw) or at + PREFIX > len(raw):
            raise InvalidRequest(
                f"{where}: element {index} goes past the {len(raw)} bytes of binary_data_size; each is its "
                f"length in {PREFIX} bytes, little-endian, then its bytes"
            )
        at += PREFIX
        elements.append(bytes(raw[at : at + size]))
        at += size
    if at < len(raw):
        raise InvalidRequest(f"{where}: {len(raw) - at} bytes lie behind its {count} elements")
    return elements


def _from_json(data: Any, where: str, shape: tuple[int, ...]) -> Value:
    """Flat, or nested as the shape is."""
    level = data
    nested = isinstance(data, list) and len(shape) > 1 and bool(data) and isinstance(data[0], list)
    expected = list(shape) if nested else [math.prod(shape)]
    for depth, size in enumerate(expected):
        parts = level if depth else [level]
        for part in parts:
            if not isinstance(part, list) or len(part) != size:
                found = f"{len(part)} values" if isinstance(part, list) else said(part)
                raise InvalidRequest(f"{where} has {found} where shape {list(shape)} has {size}")
        level = list(chain.from_iterable(parts))
    if len(shape) == 1:
        return [_from_base64(element, f"{where}[{index}]") for index, element in enumerate(level)]
    if set(map(type, level)) != {int} or not 0 <= min(level) <= max(level) <= 255:
        wrong = next(n for n in level if type(n) is not int or not 0 <= n <= 255)
        raise InvalidRequest(f"{where} has {said(wrong)}; UINT8 takes whole numbers from 0 to 255")
    return np.frombuffer(bytes(level), np.uint8).reshape(shape)


def _from_base64(text: Any, where: str) -> bytes:
    if not isinstance(text, str):
        raise InvalidRequest(f"{where} is {said(text)}; it must be a string of base64")
    try:
        return from_base64(text)
    except ValueError as error:
        raise InvalidRequest(f"{where} is {said(text)}; it must be a string of base64: {error}") from None


def _output(entry: dict[str, Any], where: str, tensor: Tensor, binary: bool) -> Output:
    parameters = parameters_of(entry, where)
    if wrong := next((key for key in parameters if key.startswith("shared_memory")), None):
        raise InvalidRequest(f"{where}.parameters has {said(wrong)[1:-1]}; answers come in the body only")
    binary = flag(parameters, "binary_data", f"{where}.parameters", binary)
    top, values = parameters.get("classification", 0), _row_size(tensor)
    if type(top) is not int or not 0 <= top <= values:
        raise InvalidRequest(
            f"{where}.parameters.classification is {said(top)}; {tensor.name} has {values} values"
        )
    return Output(tensor, binary, top)


def _refuse_long_json(outputs: Sequence[Output], images: int) -> None:
    each = sum(output.classification or _row_size(output.tensor) for output in outputs if not output.binary)
    if each * images > MAX_JSON_VALUES:
        raise InvalidRequest(
            f"outputs would be {each * images} values of JSON, more than {MAX_JSON_VALUES}; ask for "
            "binary_data, for fewer outputs, or for fewer images"
        )


def _row_size(tensor: Tensor) -> int:
    return math.prod(n for n in tensor.shape if n is not None)


def _timeout(parameters: dict[str, Any]) -> float:
    microseconds = parameters.get("timeout", 0)
    if type(microseconds) is not int or microseconds < 0:
        raise InvalidRequest(
            f"parameters.timeout is {said(microseconds)}; it must be microseconds, as a whole number"
        )
    return min(microseconds, 10**15) / 1e6 or math.inf  # 0 is the server's own, as without it


def _named(entry: dict[str, Any], where: str, tensors: Sequence[Tensor], seen: Mapping[str, Any]) -> Tensor:
    name = entry.get("name")
    found = next((tensor for tensor in tensors if tensor.name == name), None)
    if found is None:
        names = ", ".join(tensor.name for tensor in tensors)
        raise InvalidRequest(f"{where}.name is {said(name)}; this model has {names}")
    if found.name in seen:
        raise InvalidRequest(f"{where}.name is {said(name)} again; name each tensor once")
    return found
