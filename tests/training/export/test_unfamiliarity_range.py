"""Tests that the graph's unfamiliarity is finite and 0 to 1, whatever the scores and activations."""

from itertools import product

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from onnx import TensorProto, helper

from contract.trust import UNFAMILIARITY
from tests.support.models.unfamiliar import small_network, unfamiliar_graph
from training.export.graph import IR_VERSION, OPSET, PRECISIONS, Array, Graph
from training.export.unfamiliarity import MIN_DIVISOR, SCORE, add_unfamiliarity, extend

RNG = np.random.default_rng(0)
SCORES = np.sort(RNG.normal(-8, 2, 850))
KNOTS = {
    "scores": SCORES,
    "101 scores": SCORES[::8],
    "each score twice": np.repeat(SCORES, 2),
    "almost the same score": -15 + MIN_DIVISOR * np.arange(128),
    "the same score": np.full(50, -15.0),
    "two scores": SCORES[:2],
}


def run(model: onnx.ModelProto, values: Array) -> Array:
    options = ort.SessionOptions()
    options.log_severity_level = 3
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    (result,) = session.run([UNFAMILIARITY], {session.get_inputs()[0].name: values})
    assert (result.dtype, result.shape) == (np.dtype(np.float32), (len(values),))
    return np.asarray(result)


@pytest.mark.parametrize("name", KNOTS)
def test_unfamiliarity_is_interpolated_between_knots(name: str) -> None:
    knots = KNOTS[name].astype(np.float32)
    graph = Graph("fp32")
    add_unfamiliarity(graph, knots)
    scores = helper.make_tensor_value_info(SCORE, TensorProto.FLOAT, ["N", 1])
    model = helper.make_model(
        helper.make_graph([], "g", [scores], []),
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=IR_VERSION,
    )
    extend(model, graph, {UNFAMILIARITY: ["N"]})
    # Scores are -20 to 30; in steps of MIN_DIVISOR, float32 cannot count that far.
    values = np.concatenate([np.linspace(-25, 25, 4001), knots, [-1e30, 1e30]]).astype(np.float32)
    result = run(model, values[:, None])
    assert result.min() >= 0
    assert result.max() <= 1
    low, width = knots[:-1].astype(np.float64), np.maximum(np.diff(knots.astype(np.float64)), MIN_DIVISOR)
    expected = np.clip((values[:, None] - low) / width, 0, 1).mean(axis=1)
    np.testing.assert_allclose(result, expected, atol=2e-6)


@pytest.mark.parametrize(
    ("precision", "scale"),
    [*product(PRECISIONS, (0, 1e-30, 1, 1e4)), ("fp32", 1e30), ("int8", 1e30)],  # too large for fp16
)
def test_unfamiliarity_is_0_to_1_for_small_and_large_activations(precision: str, scale: float) -> None:
    """The squares of the largest overflow."""
    network = small_network(0.02)
    with torch.no_grad():
        for parameter in network.conv5.parameters():
            parameter.mul_(scale)
    images = RNG.integers(0, 256, (3, 224, 224, 3), np.uint8)
    images[0], images[1] = 0, 255
    result = run(unfamiliar_graph(network, precision), images)
    assert np.isfinite(result).all()
    assert result.min() >= 0
    assert result.max() <= 1
