"""Build the part of the graph that computes how unfamiliar an image is to the network.

An image's features are the mean and the maximum of each map of conv5, both scaled to length 1, so that
scalar products are cosines. The density of a set of pictures at an image is the mean of exp(SHARPNESS *
cosine), in which the nearest count most. The score is the log density of the background pictures, weighted,
less that of the training photographs.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import onnx
from onnx import TensorProto, helper

from contract.trust import UNFAMILIARITY
from training.export.graph import Array, Graph

SHARPNESS: Final = 20.0
BACKGROUND_WEIGHT: Final = 0.5
POOLS: Final = {"mean": "AveragePool", "max": "MaxPool"}  # the parts of the features
MIN_DIVISOR: Final = 1e-6
SCORE: Final = "unfamiliarity.score"

Features = dict[str, Array]  # by part, (N, C) float32


@dataclass(frozen=True)
class Neighbours:
    """The features of the `references` (R, C) and `background` (B, C) pictures; B may be 0."""

    references: Features
    background: Features


def add_features(graph: Graph, channels: int) -> None:
    """Add the features of conv5 (N, C, 13, 13), in two parts "unfamiliarity.mean" and ".max" (N, C)."""
    ones = graph.constant("unfamiliarity.ones", np.ones((1, channels)))
    least = graph.constant("unfamiliarity.least", MIN_DIVISOR)
    for part, kind in POOLS.items():
        name = f"unfamiliarity.{part}"
        pooled = graph.node(kind, ["conv5"], f"{name}.pool", kernel_shape=[13, 13])
        vector = graph.node("Flatten", [pooled], f"{name}.vector")
        squares = graph.node("Mul", [vector, vector], f"{name}.squares")
        length = graph.node(
            "Sqrt", [graph.node("Gemm", [squares, ones], f"{name}.sum", transB=1)], f"{name}.length"
        )
        graph.node("Div", [vector, graph.node("Add", [length, least], f"{name}.divisor")], name)


def add_score(graph: Graph, neighbours: Neighbours) -> None:
    """Add the score "unfamiliarity.score" (N, 1): the higher, the less familiar."""
    near = _log_density(graph, "references", neighbours.references)
    if len(neighbours.background["mean"]):
        other = _log_density(graph, "background", neighbours.background)
        weight = graph.constant("unfamiliarity.weight", BACKGROUND_WEIGHT)
        other = graph.node("Mul", [other, weight], "unfamiliarity.weighted")
    else:
        other = graph.constant("unfamiliarity.no_background", 0)
    graph.node("Sub", [other, near], SCORE)


def add_unfamiliarity(graph: Graph, knots: Array) -> None:
    """Add the output `unfamiliarity` (N,): the share of the scores `knots` (K,) that is below the score.

    It is interpolated between knots, which ascend, and is 0 below the first and 1 above the last.
    """
    steps = len(knots) - 1
    low = graph.constant("unfamiliarity.knots", knots[:-1])
    scale = graph.constant("unfamiliarity.scale", 1 / np.maximum(np.diff(knots), MIN_DIVISOR))
    one = graph.constant("unfamiliarity.one", [1])
    above = graph.node("Sub", [SCORE, low], "unfamiliarity.above")
    above = graph.node("Mul", [above, scale], "unfamiliarity.steps")
    above = graph.node("Relu", [above], "unfamiliarity.steps.positive")
    # 1 where the score is below the step, 0 where it is above. Rounded, it stays in 0 to 1.
    below = graph.node("Sub", [one, above], "unfamiliarity.below")
    below = graph.node("Relu", [below], "unfamiliarity.below.positive")
    shares = graph.constant("unfamiliarity.average", np.full((1, steps), -1 / steps))
    column = graph.node("Gemm", [below, shares, one], "unfamiliarity.column", transB=1)  # 1 - the mean
    column = graph.node("Relu", [column], "unfamiliarity.column.positive")
    shape = graph.constant("unfamiliarity.shape", [-1], np.int64)
    graph.node("Reshape", [column, shape], UNFAMILIARITY)


def extend(model: onnx.ModelProto, graph: Graph, outputs: Mapping[str, Sequence[int | str]]) -> None:
    """Append the nodes and constants of `graph` to the model, and its float32 `outputs`, shapes by name."""
    model.graph.node.extend(graph.nodes)
    model.graph.initializer.extend(graph.initializers)
    model.graph.output.extend(
        helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in outputs.items()
    )


def _log_density(graph: Graph, name: str, pictures: Features) -> str:
    """Add log(mean(exp(SHARPNESS * cosine))) over `pictures` -> (N, 1)."""
    cosines: list[str] = []
    for part, vectors in pictures.items():
        stored = graph.constant(f"unfamiliarity.{name}.{part}", vectors, np.float16)
        wide = graph.node("Cast", [stored], f"unfamiliarity.{name}.{part}.wide", to=TensorProto.FLOAT)
        inputs = [f"unfamiliarity.{part}", wide, *cosines]  # the third is added
        cosines = [graph.node("Gemm", inputs, f"unfamiliarity.{name}.{part}.product", transB=1)]
    # The cosine is the mean of the two parts'.
    half = graph.constant(f"unfamiliarity.{name}.sharpness", SHARPNESS / len(pictures))
    powers = graph.node("Mul", [*cosines, half], f"unfamiliarity.{name}.exponents")
    powers = graph.node("Exp", [powers], f"unfamiliarity.{name}.powers")
    count = len(pictures["mean"])
    mean = graph.constant(f"unfamiliarity.{name}.average", np.full((1, count), 1 / count))
    density = graph.node("Gemm", [powers, mean], f"unfamiliarity.{name}.density", transB=1)
    return graph.node("Log", [density], f"unfamiliarity.{name}.log")
