"""Parse requests of the Open Inference Protocol: JSON tensors, or binary tensor data after the JSON.

Depends on numpy and the tensors of the manifest only, not on HTTP or a model. A size that a request
declares is checked against the received bytes before anything of that size is allocated.
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
    abbreviate,
    flag,
    from_base64,
    list_of_objects,
    parameters_of,
    read_json,
)

DATATYPES: Final = {"uint8": "UINT8", "float32": "FP32", "bytes": "BYTES"}
LENGTH_BYTES: Final = 4  # size of the length before each element of a BYTES tensor

TensorValue = NDArray[np.uint8] | list[bytes]


@dataclass(frozen=True)
class RequestedOutput:
    """An output that a request asks for.

    `binary`: as binary data instead of JSON. `classification` k > 0: the k highest values as
    "value:index:label" in place of the tensor.
    """

    tensor: Tensor
    binary: bool
    classification: int = 0


@dataclass(frozen=True)
class InferRequest:
    """A parsed request.

    `inputs` holds UINT8 tensors as arrays, which may be views of the body, and BYTES tensors as lists.
    `timeout` is in seconds.
    """

    id: str | None
    inputs: dict[str, TensorValue]
    outputs: tuple[RequestedOutput, ...]
    timeout: float = math.inf

    @property
    def images(self) -> int:
        """The number of images."""
        return sum(map(len, self.inputs.values()))


def parse_request(
    body: bytes,
    header_length: str | None,
    inputs: Sequence[Tensor],
    outputs: Sequence[Tensor],
    max_images: int,
) -> InferRequest:
    """Parse the body of an infer request. Raises InvalidRequest.

    `header_length` is the header Inference-Header-Content-Length. A request sends one of `inputs`, with 1
    to `max_images` images. If it names no outputs, it gets all `outputs`.
    """
    size = _header_length(header_length, len(body))
    head = read_json(body[:size])
    rest = memoryview(body)[size:]
    parameters = parameters_of(head, "the request")
    name = head.get("id")
    if name is not None and not isinstance(name, str):
        raise InvalidRequest(f"id is {abbreviate(name)}; it must be a string")

    values: dict[str, TensorValue] = {}
    for index, entry in enumerate(list_of_objects(head, "inputs")):
        where = f"inputs[{index}]"
        tensor = _find_tensor(entry, where, inputs, values)
        binary_allowed = header_length is not None
        values[tensor.name], rest = _value(entry, where, tensor, max_images, rest, binary_allowed)
    if len(values) != 1:
        names = " or ".join(tensor.name for tensor in inputs)
        raise InvalidRequest(f"inputs has {len(values)} tensors; send one, {names}")
    if rest:
        raise InvalidRequest(
            f"{len(rest)} bytes follow the last tensor; binary_data_size is too small, or the body too long"
        )

    binary = flag(parameters, "binary_data_output", "parameters", False)
    requested: dict[str, RequestedOutput] = {}
    for index, entry in enumerate(list_of_objects(head, "outputs") if head.get("outputs") else ()):
        where = f"outputs[{index}]"
        tensor = _find_tensor(entry, where, outputs, requested)
        requested[tensor.name] = _output(entry, where, tensor, binary)
    chosen = tuple(requested.values()) or tuple(RequestedOutput(tensor, binary) for tensor in outputs)
    request = InferRequest(name, values, chosen, _timeout(parameters))
    _refuse_long_json(chosen, request.images)
    return request


def _header_length(header: str | None, body_length: int) -> int:
    if header is None:
        return body_length
    if not (header.isascii() and header.isdecimal() and len(header) < 16 and int(header) <= body_length):
        raise InvalidRequest(
            f"Inference-Header-Content-Length is {abbreviate(header)}; it must be the length of the JSON, "
            f"at most the body's {body_length} bytes"
        )
    return int(header)


def _value(
    entry: dict[str, Any],
    where: str,
    tensor: Tensor,
    max_images: int,
    rest: memoryview,
    binary_allowed: bool,
) -> tuple[TensorValue, memoryview]:
    """Return the value of a tensor, and the binary data after it."""
    parameters = parameters_of(entry, where)
    if unsupported := next((key for key in parameters if key.startswith("shared_memory")), None):
        raise InvalidRequest(
            f"{where}.parameters has {abbreviate(unsupported)[1:-1]}; send the tensor in the body instead"
        )
    datatype = DATATYPES[tensor.dtype]
    if entry.get("datatype") != datatype:
        raise InvalidRequest(
            f"{where}.datatype is {abbreviate(entry.get('datatype'))}; {tensor.name} takes {datatype}"
        )
    shape = _shape(entry, where, tensor, max_images)
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
            f"{where}.parameters.binary_data_size is {abbreviate(size)}; {len(rest)} bytes are left in the "
            "body"
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


def _shape(entry: dict[str, Any], where: str, tensor: Tensor, max_images: int) -> tuple[int, ...]:
    shape, tensor_shape = entry.get("shape"), tensor.shape
    if (
        not isinstance(shape, list)
        or len(shape) != len(tensor_shape)
        or not all(type(n) is int and m in {None, n} for n, m in zip(shape, tensor_shape, strict=True))
    ):
        sizes = ", ".join("N" if n is None else str(n) for n in tensor_shape)
        raise InvalidRequest(f"{where}.shape is {abbreviate(shape)}; {tensor.name} takes [{sizes}]")
    if not 1 <= shape[0] <= max_images:
        raise InvalidRequest(
            f"{where}.shape[0] is {abbreviate(shape[0])}; one request takes 1 to {max_images} images"
        )
    return tuple(shape)


def _split(raw: memoryview, where: str, count: int) -> list[bytes]:
    """Split a binary BYTES tensor into its `count` elements, each preceded by its length."""
    elements: list[bytes] = []
    offset = 0
    for index in range(count):
        size = int.from_bytes(raw[offset : offset + LENGTH_BYTES], "little")
        if offset + LENGTH_BYTES + size > len(raw) or offset + LENGTH_BYTES > len(raw):
            raise InvalidRequest(
                f"{where}: element {index} goes past the {len(raw)} bytes of binary_data_size; each "
                f"element is its length in {LENGTH_BYTES} bytes, little-endian, then its bytes"
            )
        offset += LENGTH_BYTES
        elements.append(bytes(raw[offset : offset + size]))
        offset += size
    if offset < len(raw):
        raise InvalidRequest(f"{where}: {len(raw) - offset} bytes follow its {count} elements")
    return elements


def _from_json(data: Any, where: str, shape: tuple[int, ...]) -> TensorValue:
    """Read a tensor's JSON data, flat or nested as its shape."""
    level = data
    nested = isinstance(data, list) and len(shape) > 1 and bool(data) and isinstance(data[0], list)
    expected = list(shape) if nested else [math.prod(shape)]
    for depth, size in enumerate(expected):
        parts = level if depth else [level]
        for part in parts:
            if not isinstance(part, list) or len(part) != size:
                size_sent = f"{len(part)} values" if isinstance(part, list) else abbreviate(part)
                raise InvalidRequest(f"{where} has {size_sent} where shape {list(shape)} has {size}")
        level = list(chain.from_iterable(parts))
    if len(shape) == 1:
        return [_from_base64(element, f"{where}[{index}]") for index, element in enumerate(level)]
    if set(map(type, level)) != {int} or not 0 <= min(level) <= max(level) <= 255:
        invalid = next(n for n in level if type(n) is not int or not 0 <= n <= 255)
        raise InvalidRequest(f"{where} has {abbreviate(invalid)}; UINT8 takes whole numbers from 0 to 255")
    return np.frombuffer(bytes(level), np.uint8).reshape(shape)


def _from_base64(text: Any, where: str) -> bytes:
    if not isinstance(text, str):
        raise InvalidRequest(f"{where} is {abbreviate(text)}; it must be a string of base64")
    try:
        return from_base64(text)
    except ValueError as error:
        raise InvalidRequest(
            f"{where} is {abbreviate(text)}; it must be a string of base64: {error}"
        ) from None


def _output(entry: dict[str, Any], where: str, tensor: Tensor, binary: bool) -> RequestedOutput:
    parameters = parameters_of(entry, where)
    if unsupported := next((key for key in parameters if key.startswith("shared_memory")), None):
        raise InvalidRequest(
            f"{where}.parameters has {abbreviate(unsupported)[1:-1]}; outputs are sent in the body only"
        )
    binary = flag(parameters, "binary_data", f"{where}.parameters", binary)
    top, values = parameters.get("classification", 0), _row_size(tensor)
    if type(top) is not int or not 0 <= top <= values:
        raise InvalidRequest(
            f"{where}.parameters.classification is {abbreviate(top)}; {tensor.name} has {values} values"
        )
    return RequestedOutput(tensor, binary, top)


def _refuse_long_json(outputs: Sequence[RequestedOutput], images: int) -> None:
    values_per_image = sum(
        output.classification or _row_size(output.tensor) for output in outputs if not output.binary
    )
    if values_per_image * images > MAX_JSON_VALUES:
        raise InvalidRequest(
            f"outputs would have {values_per_image * images} JSON values, more than {MAX_JSON_VALUES}; "
            "ask for binary_data, for fewer outputs, or for fewer images"
        )


def _row_size(tensor: Tensor) -> int:
    return math.prod(n for n in tensor.shape if n is not None)


def _timeout(parameters: dict[str, Any]) -> float:
    microseconds = parameters.get("timeout", 0)
    if type(microseconds) is not int or microseconds < 0:
        raise InvalidRequest(
            f"parameters.timeout is {abbreviate(microseconds)}; it must be a whole number of microseconds"
        )
    return (
        min(microseconds, 10**15) / 1e6 or math.inf
    )  # 0: only the server's own limit, as without the parameter


def _find_tensor(
    entry: dict[str, Any], where: str, tensors: Sequence[Tensor], seen: Mapping[str, Any]
) -> Tensor:
    name = entry.get("name")
    match = next((tensor for tensor in tensors if tensor.name == name), None)
    if match is None:
        names = ", ".join(tensor.name for tensor in tensors)
        raise InvalidRequest(f"{where}.name is {abbreviate(name)}; this model has {names}")
    if match.name in seen:
        raise InvalidRequest(f"{where}.name is {abbreviate(name)} again; name each tensor once")
    return match
