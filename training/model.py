"""AlexNet, as in Krizhevsky, Sutskever and Hinton, "ImageNet Classification with Deep Convolutional
Neural Networks", NIPS 2012; the sections below are the paper's.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# Section 3.3. The denominator is (k + alpha * sum of n squares)^beta: alpha is not divided by n here,
# as torch's LocalResponseNorm and ONNX's LRN do (there the same net has alpha = 5e-4).
LRN_SIZE: Final = 5
LRN_K: Final = 2.0
LRN_ALPHA: Final = 1e-4


@dataclass(frozen=True)
class Layer:
    """One row of the layer table, for one image: `shape` is C, H, W or just C."""

    name: str
    shape: tuple[int, ...]
    parameters: int
    multiply_adds: int


class LocalResponseNorm(nn.Module):
    """x / (k + alpha * sum over 5 neighbouring channels of x^2)^(3/4), in float32 always.

    The sum over channels is a 1x1 convolution with a banded matrix, and d^(-3/4) = r * sqrt(r) with
    r = 1/sqrt(d): exact, and several times faster than a power and a pooling across channels.
    Squares overflow float16 above 255, and bfloat16 has 8 bits of mantissa: hence float32.
    """

    band: Tensor
    k: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        index = torch.arange(channels)
        near = (index[:, None] - index).abs() <= LRN_SIZE // 2
        # Constants of the architecture, so no part of the state dict.
        self.register_buffer("band", near[:, :, None, None] * LRN_ALPHA, persistent=False)
        self.register_buffer("k", torch.full((channels,), LRN_K), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast(x.device.type, enabled=False):
            x = x.to(self.band.dtype)
            r = F.conv2d(x * x, self.band, self.k).rsqrt()
            return x * (r * r.sqrt())


class AlexNet(nn.Module):
    """Pixels minus mean, (N, 3, image_size, image_size) float, -> logits (N, classes).

    `width`, above 0 and up to 1, scales the number of kernels and of hidden units of every layer, to an
    even number for the two groups. `init` is "paper" (section 5: weights N(0, 0.01^2), biases 1 in
    conv2, conv4, conv5, fc6 and fc7) or "kaiming", for inputs of unit variance. An `image_size` below
    224 is for pre-training; it changes the shape of fc6 alone.
    """

    def __init__(
        self, classes: int, width: float = 1.0, init: str = "paper", image_size: int = 224
    ) -> None:
        super().__init__()
        if not 0 < width <= 1:
            raise ValueError(f"width is {width}; it must be above 0 and at most 1")
        c1, c2, c3, c4, c5, hidden = (
            max(2, 2 * round(n * width / 2)) for n in (96, 256, 384, 384, 256, 4096)
        )
        # Padding is not in the paper: with 2, (224 - 11 + 2*2) / 4 + 1 is 55, the size it goes on with.
        self.conv1 = nn.Conv2d(3, c1, 11, stride=4, padding=2)
        self.norm1 = LocalResponseNorm(c1)
        # Two groups: the paper's two GPUs, which talk to each other in conv3 and from fc6 on only.
        self.conv2 = nn.Conv2d(c1, c2, 5, padding=2, groups=2)
        self.norm2 = LocalResponseNorm(c2)
        self.conv3 = nn.Conv2d(c2, c3, 3, padding=1)
        self.conv4 = nn.Conv2d(c3, c4, 3, padding=1, groups=2)
        self.conv5 = nn.Conv2d(c4, c5, 3, padding=1, groups=2)
        side = (image_size + 2 * 2 - 11) // 4 + 1  # 55 after conv1
        for _pool in range(3):
            side = (side - 3) // 2 + 1  # 27, 13, 6
        self.fc6 = nn.Linear(c5 * side * side, hidden)
        self.fc7 = nn.Linear(hidden, hidden)
        self.fc8 = nn.Linear(hidden, classes)
        self.dropout = nn.Dropout(0.5)  # section 4.2, on the outputs of fc6 and fc7
        initialise(self, init)

    def forward(self, x: Tensor) -> Tensor:  # (N, 3, 224, 224); shapes at width 1
        x = overlapping_pool(self.norm1(F.relu(self.conv1(x))))  # (N, 96, 27, 27)
        x = overlapping_pool(self.norm2(F.relu(self.conv2(x))))  # (N, 256, 13, 13)
        x = F.relu(self.conv3(x))  # (N, 384, 13, 13)
        x = F.relu(self.conv4(x))  # (N, 384, 13, 13)
        x = overlapping_pool(F.relu(self.conv5(x)))  # (N, 256, 6, 6)
        x = self.dropout(F.relu(self.fc6(x.flatten(1))))  # (N, 4096)
        x = self.dropout(F.relu(self.fc7(x)))  # (N, 4096)
        logits: Tensor = self.fc8(x)
        return logits


def overlapping_pool(x: Tensor) -> Tensor:
    """Section 3.4: windows of 3 at a stride of 2 overlap."""
    return F.max_pool2d(x, kernel_size=3, stride=2)


def initialise(model: AlexNet, init: str) -> None:
    """Fills weights and biases in place from torch's global random state."""
    if init not in {"paper", "kaiming"}:
        raise ValueError(f"init is {init!r}; it must be 'paper' or 'kaiming'")
    for name, layer in weighted_layers(model):
        assert layer.bias is not None
        if init == "kaiming" and name != "fc8":
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
        else:
            nn.init.normal_(layer.weight, std=0.01)
        ones = init == "paper" and name in {"conv2", "conv4", "conv5", "fc6", "fc7"}
        nn.init.constant_(layer.bias, 1.0 if ones else 0.0)


def weighted_layers(model: AlexNet) -> Iterator[tuple[str, nn.Conv2d | nn.Linear]]:
    """The eight layers with weights, in order."""
    for name, layer in model.named_children():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            yield name, layer


def layer_table(model: AlexNet) -> list[Layer]:
    """The table that the facts of the architecture are checked against, measured on a real pass."""
    rows: list[Layer] = []
    hooks = [
        layer.register_forward_hook(
            lambda _module, _inputs, output, name=name, layer=layer: rows.append(_row(name, layer, output))
        )
        for name, layer in weighted_layers(model)
    ]
    with torch.no_grad():
        model(torch.zeros(1, 3, 224, 224))
    for hook in hooks:
        hook.remove()
    return rows


def _row(name: str, layer: nn.Conv2d | nn.Linear, output: Tensor) -> Layer:
    shape = tuple(output.shape[1:])
    positions = shape[1] * shape[2] if len(shape) == 3 else 1
    parameters = sum(p.numel() for p in layer.parameters())
    return Layer(name, shape, parameters, layer.weight.numel() * positions)
