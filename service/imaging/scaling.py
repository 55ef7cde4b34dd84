"""Scale decoded pixels with ONNX Runtime where they are, in device memory, exactly as Pillow does.

A crop is two products, of the picture with the weights of its columns and of its rows. The weights are
those of Pillow's antialiased bilinear filter (libImaging/Resample.c), which has them as integers of 2^-22
and rounds to 8 bits after each product. Each is split here into its upper and lower bits, whose sums are
exact in float32, in any order.
"""

import math
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from contract.preprocess import five_places
from contract.recipe import Recipe

_UNIT: Final = 1 << 22  # of Pillow's weights
_LOWER: Final = 1 << 11  # lower part of a weight; sums of up to 32 of them with 8 bits are below 2^24
_UPPER: Final = _UNIT // _LOWER
_ALIGNMENT: Final = 16  # rows, so that the first one used begins at a multiple of 16 bytes


class Weights(NamedTuple):
    """The pixels of an axis, and their weights in 2^-22, of which each pixel of the output is the sum.

    Both have the shape (size of the output, number of pixels in a sum).
    """

    places: NDArray[np.int64]
    values: NDArray[np.int64]

    def cut(self, start: int, count: int, mirrored: bool = False) -> "Weights":
        step = -1 if mirrored else 1
        return Weights(*(part[start : start + count][::step] for part in self))


class Crop(NamedTuple):
    """The weights of a crop, and in which order Pillow applies them."""

    rows: Weights
    columns: Weights
    rows_first: bool


def crops_of(width: int, height: int, recipe: Recipe, count: int) -> list[Crop]:
    """Compute the weights of the central crop (`count` 1) or of ten, as contract/preprocess.py has them.

    The picture is at most 16 times as long as wide.
    """
    margin, size = ((recipe.resize - recipe.crop) // 2, recipe.crop) if count == 1 else (0, recipe.resize)
    shorter = min(width, height)
    rows, scaled_height = _axis(height, shorter, recipe, margin, size)
    columns, scaled_width = _axis(width, shorter, recipe, margin, size)
    # As Pillow decides it, since version 13.
    rows_first = height - scaled_height > max(0, 2 * (width - scaled_width))
    if count == 1:
        return [Crop(rows, columns, rows_first)]
    return [
        Crop(rows.cut(y, recipe.crop), columns.cut(x, recipe.crop, mirrored), rows_first)
        for mirrored in (False, True)
        for y, x in five_places(recipe)
    ]


def _axis(side: int, shorter: int, recipe: Recipe, left: int, size: int) -> tuple[Weights, int]:
    """Compute the weights of `size` pixels of an axis, and to how many pixels Pillow scales it."""
    if recipe.whole:
        scaled = int(recipe.resize * side / shorter)
        start = round((scaled - recipe.resize) / 2) + left
        return weights(side, 0, side, scaled).cut(start, size), scaled
    scale = shorter / recipe.resize
    begin = (side - shorter) / 2 + left * scale
    return weights(side, begin, min(begin + size * scale, side), size), size


def weights(side: int, start: float, end: float, size: int) -> Weights:
    """Compute Pillow's weights to scale pixels `start` to `end` of an axis of `side` pixels to `size`."""
    start, end = float(np.float32(start)), float(np.float32(end))  # as Pillow's C code takes them
    scale = (end - start) / size
    radius = max(scale, 1.0)
    centres = start + (np.arange(size) + 0.5) * scale
    first = np.maximum(np.trunc(centres - radius + 0.5), 0)
    last = np.minimum(np.trunc(centres + radius + 0.5), side)
    taps = min(2 * math.ceil(radius) + 1, side)
    # Distinct places for each output pixel: those before `first` and from `last` on have no weight.
    places = np.minimum(first, side - taps)[:, None] + np.arange(taps)
    values = np.maximum(1 - np.abs((places - centres[:, None] + 0.5) / radius), 0)
    values[(places < first[:, None]) | (places >= last[:, None])] = 0
    values /= values.sum(axis=1, keepdims=True)
    return Weights(places.astype(np.int64), np.floor(values * _UNIT + 0.5).astype(np.int64))


class Scaler:
    """Scale pictures in the memory of `device`, "cuda" or "cpu"; opened and used by one thread.

    `providers` is what the device's sessions of ONNX Runtime (the module `runtime`) are opened with.
    """

    def __init__(self, runtime: Any, providers: Any, device: str) -> None:
        options = runtime.SessionOptions()
        options.log_severity_level = 3
        options.intra_op_num_threads = 1
        self._sessions = [
            runtime.InferenceSession(graph(rows_first), options, providers=providers, enable_fallback=0)
            for rows_first in (False, True)
        ]
        self._device = device

    def scale(self, pixels: int, width: int, crop: Crop, target: int) -> None:
        """Scale the picture (..., width, 3) uint8 at the address `pixels` to the address `target`."""
        top = int(crop.rows.places.min()) // _ALIGNMENT * _ALIGNMENT
        used = int(crop.rows.places.max()) + 1 - top
        session = self._sessions[crop.rows_first]
        binding, where = session.io_binding(), (self._device, 0, np.uint8)
        binding.bind_input("image", *where, [used, width, 3], pixels + top * width * 3)
        for name, axis, side, begin in (
            ("rows", crop.rows, used, top),
            ("columns", crop.columns, width, 0),
        ):
            upper, lower = axis.values // _LOWER / _UPPER, axis.values % _LOWER / _LOWER
            values = np.concatenate([upper, lower]).astype(np.float32)
            binding.bind_cpu_input(f"{name}_shape", np.array([len(values), side]))
            binding.bind_cpu_input(f"{name}_places", np.concatenate([axis.places - begin] * 2))
            binding.bind_cpu_input(f"{name}_values", values)
        size = [len(crop.rows.places), len(crop.columns.places), 3]
        binding.bind_output("crop", *where, size, target)
        session.run_with_iobinding(binding)  # until the device has finished


# ONNX in protobuf's encoding, of which two kinds of field are needed; numbers of fields and types are those
# of onnx.proto. The package onnx would be one more dependency of the service for these few nodes.
_FLOAT, _UINT8, _INT64 = 1, 2, 7


def graph(rows_first: bool) -> bytes:
    """Build the ONNX file: `image` (H, W, 3) uint8 to `crop` (rows, columns, 3) uint8.

    For each axis it takes the `places` and `values` of the weights that are not 0, those of the upper bits
    first, and the shape of the whole matrix, which is a hundred times as large and would have to cross the
    bus.
    """
    nodes, last = [_node("Cast", "image", "levels", to=_FLOAT)], "levels"
    for name in ("rows", "columns") if rows_first else ("columns", "rows"):
        shape, axis = ("flat", 0) if name == "rows" else ("pixels", 1)
        nodes += [
            _node("Reshape", f"{last} {shape}", f"{name}_image"),
            # The product of the upper bits, and below it that of the lower bits
            _node("ConstantOfShape", f"{name}_shape", f"{name}_zeros"),
            _node("ScatterElements", f"{name}_zeros {name}_places {name}_values", name, axis=1),
            _node("MatMul", f"{name} {name}_image", f"{name}_sums"),
            _node("Split", f"{name}_sums", f"{name}_upper {name}_lower", axis=axis),
            # Their sum, without what is below a unit of the upper ones, rounded to levels
            _node("Floor", f"{name}_lower", f"{name}_whole"),
            _node("Mul", f"{name}_whole unit", f"{name}_carry"),
            _node("Add", f"{name}_upper {name}_carry", f"{name}_exact"),
            _node("Add", f"{name}_exact half", f"{name}_half"),
            _node("Floor", f"{name}_half", f"{name}_levels"),
        ]
        last = f"{name}_levels"
    nodes += [_node("Reshape", f"{last} pixels", "scaled"), _node("Cast", "scaled", "crop", to=_UINT8)]
    inputs = [_tensor("image", _UINT8, 3)]
    for name in ("rows", "columns"):
        inputs += [
            _tensor(f"{name}_shape", _INT64, 1),
            _tensor(f"{name}_places", _INT64, 2),
            _tensor(f"{name}_values", _FLOAT, 2),
        ]
    constants = [
        _constant("half", np.array(0.5, np.float32), _FLOAT),
        _constant("unit", np.array(1 / _UPPER, np.float32), _FLOAT),
        _constant("flat", np.array([0, -1]), _INT64),  # (H, W * 3)
        _constant("pixels", np.array([0, -1, 3]), _INT64),  # (H, W, 3)
    ]
    content = _field(1, *nodes) + _field(2, "scale") + _field(5, *constants) + _field(11, *inputs)
    content += _field(12, _tensor("crop", _UINT8, 3))
    return _field(1, 8) + _field(7, content) + _field(8, _field(2, 17))  # IR version, graph, operators


def _node(operator: str, inputs: str, outputs: str, **attributes: int) -> bytes:
    integers = [
        _field(5, _field(1, name) + _field(3, value) + _field(20, 2)) for name, value in attributes.items()
    ]
    names = _field(1, *inputs.split()) + _field(2, *outputs.split())
    return names + _field(4, operator) + b"".join(integers)


def _constant(name: str, values: NDArray[Any], kind: int) -> bytes:
    return _field(1, *values.shape) + _field(2, kind) + _field(8, name) + _field(9, values.tobytes())


def _tensor(name: str, kind: int, dimensions: int) -> bytes:
    shape = _field(2, _field(1, b"") * dimensions)  # of any sizes
    return _field(1, name) + _field(2, _field(1, _field(1, kind) + shape))


def _field(number: int, *values: int | str | bytes) -> bytes:
    encoded = b""
    for value in values:
        if isinstance(value, int):
            encoded += _varint(number << 3) + _varint(value)
        else:
            content = value.encode() if isinstance(value, str) else value
            encoded += _varint(number << 3 | 2) + _varint(len(content)) + content
    return encoded


def _varint(number: int) -> bytes:
    rest = number >> 7
    return bytes([number & 0x7F | 0x80]) + _varint(rest) if rest else bytes([number])
