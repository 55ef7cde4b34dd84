"""Shrink a wide network's convolutions to a narrow one, keeping the kernels of largest norm."""

import math
from collections.abc import Mapping

import torch
from torch import Tensor

CONVOLUTIONS = ("conv1", "conv2", "conv3", "conv4", "conv5")


def narrowed(wide: Mapping[str, Tensor], narrow: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Keep, of each convolution in `wide`, as many kernels as `narrow` has, those of the largest norms.

    As many are kept of the first half of the kernels as of the second, to preserve the paper's two groups.
    Kernels with fewer inputs are scaled up by the root of the ratio, for outputs of the same size.
    -> weights and biases of the convolutions, in the shapes of `narrow`, which is at most as wide.
    """
    weights: dict[str, Tensor] = {}
    inputs = torch.arange(3)  # the kernels kept in the layer before
    for name in CONVOLUTIONS:
        weight, bias = wide[f"{name}.weight"], wide[f"{name}.bias"]
        count, per_kernel = narrow[f"{name}.weight"].shape[:2]
        norms = weight.flatten(1).norm(dim=1).view(2, -1)
        kept = norms.topk(count // 2).indices.sort().values + torch.tensor([[0], [len(bias) // 2]])
        groups = len(inputs) // per_kernel
        halves = [
            weight[rows][:, columns % weight.shape[1]]
            for rows, columns in zip(kept.flatten().chunk(groups), inputs.chunk(groups), strict=True)
        ]
        weights[f"{name}.weight"] = torch.cat(halves) * math.sqrt(weight.shape[1] / per_kernel)
        weights[f"{name}.bias"] = bias[kept.flatten()]
        inputs = kept.flatten()
    return weights
