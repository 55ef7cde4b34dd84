"""Builds small graphs of a few nodes and checks what they cost."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from onnx import NodeProto, TensorProto, helper, numpy_helper

from service.models import onnx_cost, onnx_file
from service.models.onnx_file import read

CAST = helper.make_node("Cast", ["images"], ["pixels"], to=TensorProto.FLOAT)


FIRST = helper.make_node("Transpose", ["pixels"], ["x"], perm=[0, 3, 1, 2])


FLAT = helper.make_node("Flatten", ["pixels"], ["flat"])


def int64(*values: int) -> np.ndarray:
    return np.array(values, np.int64)


def floats(*shape: int) -> np.ndarray:
    return np.zeros(shape, np.float32)


def graph(nodes: Sequence[NodeProto], **stored: np.ndarray) -> bytes:
    values = [numpy_helper.from_array(value, name) for name, value in stored.items()]
    body = helper.make_graph([CAST, *nodes], "g", [], [], values)
    model = helper.make_model(body, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    data: bytes = model.SerializeToString()
    return data


def check(data: bytes) -> None:
    file = read(data)
    onnx_file.check(file)
    onnx_cost.check(file)


def conv(source: str, target: str, **attributes: Any) -> NodeProto:
    return helper.make_node("Conv", [source, "kernels"], [target], **attributes)


def lrn(source: str, target: str, **attributes: Any) -> NodeProto:
    """Make a normalisation of ours; an attribute that is None is left out."""
    values = {"size": 5, "alpha": 5e-4, "beta": 0.75, "bias": 2.0} | attributes
    return helper.make_node("LRN", [source], [target], **values)
