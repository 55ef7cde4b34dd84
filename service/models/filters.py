"""Read conv1's kernels from a model file and draw them as a PNG."""

import io
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from contract.kernels import kernels_picture
from service.models.onnx_file import OnnxFile, Tensor
from service.models.onnx_wire import OnnxError

MAX_WEIGHTS: Final = 1_000_000  # ours have 34,848


def conv1_weights(file: OnnxFile) -> NDArray[np.float32] | None:
    """Read the weights of conv1 (N, 3, S, S) as float32, whatever their stored precision is.

    Returns None if the file has no such layer. Raises OnnxError if the weights are damaged.
    """
    stored = file.initializers
    if (weights := stored.get("conv1.weight")) is not None:
        return _kernels(weights).astype(np.float32)
    levels, scale = stored.get("conv1.weight.int8"), stored.get("conv1.weight.scale")
    if levels is None or scale is None:
        return None
    kernels = _kernels(levels)
    if scale.shape not in ([len(kernels)], [len(kernels), 1, 1, 1]):
        raise OnnxError("is damaged: conv1's scales are not one for each kernel")
    return np.asarray(kernels * scale.values().reshape(-1, 1, 1, 1), np.float32)


def draw_kernels(kernels: NDArray[np.float32]) -> bytes:
    """Draw kernels (N, 3, S, S) as a PNG; the same weights give the same bytes."""
    buffer = io.BytesIO()
    kernels_picture(kernels).save(buffer, "PNG")
    return buffer.getvalue()


def _kernels(tensor: Tensor) -> NDArray[Any]:
    shape = tensor.shape
    if len(shape) != 4 or shape[1] != 3 or shape[2] != shape[3] or not 0 < np.prod(shape) <= MAX_WEIGHTS:
        raise OnnxError("is damaged: conv1 has no kernels of three colours")
    return tensor.values()
