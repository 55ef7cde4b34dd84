"""Quantise a trained network to int8: choose its layers and the scales of their activations.

The scales of the weights follow from the weights, in graph.py.
"""

from collections.abc import Callable, Sequence
from typing import Final

import numpy as np
import onnx
import onnxruntime as ort
import torch
from numpy.typing import NDArray
from torch import Tensor

from training.export.graph import PIXELS, Rounding, build_graph
from training.export.parity import classifier_of, difference
from training.model import AlexNet, LocalResponseNorm, weighted_layers

IMAGES: Final = 256  # training images, to measure the range of activations
BINS: Final = 2048
BATCH: Final = 16

Histogram = NDArray[np.int64]


def quantise(
    model: AlexNet,
    mean: Sequence[float],
    std: Sequence[float],
    crops: Tensor,
    passes: Callable[[onnx.ModelProto], bool],
) -> tuple[onnx.ModelProto, list[str]] | None:
    """Quantise as many layers as `passes` accepts -> the int8 graph and its float32 layers, or None.

    `crops` (N, 224, 224, 3) uint8 are of the training set. At first all layers are in 8 bits. While the
    graph does not pass, the layer that changes the probabilities most goes back to float32.
    """
    steps = calibrate(model, mean, std, crops)
    layers = [name for name, _layer in weighted_layers(model)]

    def graph_of(integer: Sequence[str]) -> onnx.ModelProto:
        return build_graph(model, mean, std, "int8", rounding_of(model, integer, steps))

    if passes(graph := graph_of(layers)):
        return graph, []
    sample = crops[:64]
    unrounded = classifier_of(graph_of([]))(sample)
    change = {name: difference(classifier_of(graph_of([name]))(sample), unrounded).mean for name in layers}
    layers.sort(key=lambda name: change[name])
    floating = []
    while layers:
        floating.append(layers.pop())
        if passes(graph := graph_of(layers)):
            return graph, floating
    return None


def rounding_of(model: AlexNet, integer: Sequence[str], steps: dict[str, float]) -> Rounding:
    """Round the inputs and outputs of the layers `integer`, except the output of fc8."""
    points, point = {}, PIXELS
    for name, _layer in weighted_layers(model):
        points[name] = [point, name]
        norm = {"conv1": model.norm1, "conv2": model.norm2}.get(name)
        point = f"{name}.norm" if isinstance(norm, LocalResponseNorm) else name
    needed = {point for name in integer for point in points[name]} - {"fc8"}
    return Rounding(frozenset(integer), {point: steps[point] for point in needed})


def calibrate(
    model: AlexNet, mean: Sequence[float], std: Sequence[float], crops: Tensor
) -> dict[str, float]:
    """Choose, for each point, the size of its 255 levels with the least mean squared rounding error."""
    steps = {PIXELS: (max(mean) + 255 - min(mean)) / 255}
    graph = build_graph(model, mean, std, "fp32")
    tensors = {
        node.output[0]: node.output[0].removesuffix(".activation")
        for node in graph.graph.node
        if node.output[0].endswith((".activation", ".norm"))
    }
    graph.graph.output.extend(onnx.ValueInfoProto(name=name) for name in tensors)
    session = ort.InferenceSession(graph.SerializeToString(), providers=["CPUExecutionProvider"])
    batches = [part.numpy() for part in torch.split(crops, BATCH)]
    tops = np.max([[v.max() for v in session.run(list(tensors), {"images": b})] for b in batches], axis=0)
    counts = np.zeros((len(tensors), BINS), np.int64)
    for batch in batches:
        for place, values in enumerate(session.run(list(tensors), {"images": batch})):
            positive = values[values > 0]
            counts[place] += np.histogram(positive, BINS, (0, max(tops[place], 1e-6)))[0]
    for place, point in enumerate(tensors.values()):
        steps[point] = _best_step(counts[place], max(float(tops[place]), 1e-6))
    return steps


def _best_step(counts: Histogram, top: float) -> float:
    centres = (np.arange(BINS) + 0.5) * top / BINS
    steps = top / 255 * np.linspace(0.2, 1, 81)
    rounded = np.minimum(np.rint(centres / steps[:, None]), 255) * steps[:, None]
    return float(steps[np.argmin(((rounded - centres) ** 2) @ counts)])
