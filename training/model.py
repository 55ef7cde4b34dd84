"""AlexNet and its variants as PyTorch modules, their initialisation, and the table of layers.

Source: Krizhevsky, Sutskever and Hinton, "ImageNet Classification with Deep Convolutional Neural
Networks", NIPS 2012. Section numbers in comments are the paper's.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, Final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# Section 3.3. The denominator is (k + alpha * sum of n squares)^beta: alpha is not divided by n here.
# torch's LocalResponseNorm and ONNX's LRN do divide it: there the same network has alpha = 5e-4.
LRN_SIZE: Final = 5
LRN_K: Final = 2.0
LRN_ALPHA: Final = 1e-4

# Kernels of conv1 to conv5 and units of fc6 and fc7, and the groups of conv2, conv4 and conv5. The two
# groups stand for the paper's two GPUs, which exchange data only in conv3 and from fc6 on. "torchvision" is
# the variant of Krizhevsky, "One weird trick for parallelizing convolutional neural networks", 2014.
ARCHS: Final = {
    "paper": ((96, 256, 384, 384, 256, 4096), 2),
    "one-tower": ((96, 256, 384, 384, 256, 4096), 1),
    "torchvision": ((64, 192, 384, 256, 256, 4096), 1),
}
ACTIVATIONS: Final = ("relu", "tanh")
POOL_WINDOWS: Final = {"overlapping": 3, "plain": 2}  # at a stride of 2, section 3.4


@dataclass(frozen=True)
class Variant:
    """A variant of the paper's network; with arch "torchvision" there is no LRN, whatever `lrn` is.

    Raises ValueError for an unknown value.
    """

    arch: str = "paper"
    activation: str = "relu"
    lrn: bool = True
    pooling: str = "overlapping"
    dropout: bool = True

    def __post_init__(self) -> None:
        for key, allowed in (("arch", ARCHS), ("activation", ACTIVATIONS), ("pooling", POOL_WINDOWS)):
            if getattr(self, key) not in allowed:
                raise ValueError(f"{key} is {getattr(self, key)!r}; use {' or '.join(allowed)}")


PAPER: Final = Variant()


@dataclass(frozen=True)
class Layer:
    """One row of the layer table, for one image; `shape` is the output's: (C, H, W) or (C,)."""

    name: str
    shape: tuple[int, ...]
    parameters: int
    multiply_adds: int


class LocalResponseNorm(nn.Module):
    """x / (k + alpha * sum over 5 neighbouring channels of x^2)^(3/4), always in float32.

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
        # Constants of the architecture: not part of the state dict.
        self.register_buffer("band", near[:, :, None, None] * LRN_ALPHA, persistent=False)
        self.register_buffer("k", torch.full((channels,), LRN_K), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast(x.device.type, enabled=False):
            normalised: Tensor = _Normalise.apply(  # type: ignore[no-untyped-call]
                x.to(self.band.dtype), self.band, self.k
            )
            return normalised


class _Normalise(torch.autograd.Function):
    """The normalisation with a hand-written backward, with half the memory passes of autograd's."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, band: Tensor, k: Tensor) -> Tensor:
        r = F.conv2d(x * x, band, k).rsqrt_()  # d^(-1/2)
        ctx.save_for_backward(x, r, band)
        return r.sqrt().mul_(r).mul_(x)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        """Compute g d^(-3/4) - 3/2 x band (g x d^(-7/4)); the band matrix is symmetric."""
        (g,) = gradients
        x, r, band = ctx.saved_tensors
        power = r.sqrt().mul_(r)  # d^(-3/4)
        through_d = F.conv2d((g * x).mul_(power).mul_(r).mul_(r), band).mul_(x).mul_(-1.5)
        return through_d.addcmul_(g, power), None, None


class AlexNet(nn.Module):
    """The network: pixels minus mean (N, 3, image_size, image_size), float -> logits (N, classes).

    `width`, above 0 and up to 1, scales the number of kernels and of hidden units of every layer, rounded
    to an even number for the two groups. `weight_init` is "paper" (section 5: weights N(0, 0.01^2), biases
    1 in conv2, conv4, conv5, fc6 and fc7) or "kaiming", for inputs of unit variance. An `image_size` below
    224 is for pre-training; it changes only the shape of fc6. Raises ValueError for a bad `width` or
    `weight_init`.
    """

    def __init__(
        self,
        classes: int,
        width: float = 1.0,
        weight_init: str = "paper",
        image_size: int = 224,
        variant: Variant = PAPER,
    ) -> None:
        super().__init__()
        if not 0 < width <= 1:
            raise ValueError(f"width is {width}; it must be above 0 and at most 1")
        sizes, groups = ARCHS[variant.arch]
        c1, c2, c3, c4, c5, hidden = (max(2, 2 * round(n * width / 2)) for n in sizes)
        lrn = variant.lrn and variant.arch != "torchvision"
        self.variant = variant
        self.window = POOL_WINDOWS[variant.pooling]
        self.pool = nn.MaxPool2d(self.window, stride=2)  # windows of 3 overlap, plain ones of 2 do not
        # The paper gives no padding: with 2, (224 - 11 + 2*2) / 4 + 1 is 55, its output size.
        self.conv1 = nn.Conv2d(3, c1, 11, stride=4, padding=2)
        self.norm1 = LocalResponseNorm(c1) if lrn else nn.Identity()
        self.conv2 = nn.Conv2d(c1, c2, 5, padding=2, groups=groups)
        self.norm2 = LocalResponseNorm(c2) if lrn else nn.Identity()
        self.conv3 = nn.Conv2d(c2, c3, 3, padding=1)
        self.conv4 = nn.Conv2d(c3, c4, 3, padding=1, groups=groups)
        self.conv5 = nn.Conv2d(c4, c5, 3, padding=1, groups=groups)
        side = (image_size + 2 * 2 - 11) // 4 + 1  # 55 after conv1
        for _pool in range(3):
            side = (side - self.window) // 2 + 1  # 27, 13, 6
        self.fc6 = nn.Linear(c5 * side * side, hidden)
        self.fc7 = nn.Linear(hidden, hidden)
        self.fc8 = nn.Linear(hidden, classes)
        # Section 4.2: dropout on the outputs of fc6 and fc7; torchvision: on the inputs of both.
        dropped = ("fc6", "fc7") if variant.arch != "torchvision" else ("pool5", "fc6")
        self.drop5, self.drop6, self.drop7 = (
            nn.Dropout(0.5) if variant.dropout and name in dropped else nn.Identity()
            for name in ("pool5", "fc6", "fc7")
        )
        initialise(self, weight_init)

    def forward(self, x: Tensor) -> Tensor:  # (N, 3, 224, 224); shapes at width 1
        return self.classify(self.features(x).flatten(1))

    def features(self, x: Tensor) -> Tensor:
        """Compute the pooled maps of conv5 (N, C, H, W)."""
        act = F.relu if self.variant.activation == "relu" else torch.tanh
        x = self.pool(self.norm1(act(self.conv1(x))))  # (N, 96, 27, 27)
        x = self.pool(self.norm2(act(self.conv2(x))))  # (N, 256, 13, 13)
        x = act(self.conv3(x))  # (N, 384, 13, 13)
        x = act(self.conv4(x))  # (N, 384, 13, 13)
        maps: Tensor = self.pool(act(self.conv5(x)))  # (N, 256, 6, 6)
        return maps

    def classify(self, x: Tensor) -> Tensor:  # (N, 9216)
        """Compute logits from the flattened maps of conv5."""
        act = F.relu if self.variant.activation == "relu" else torch.tanh
        x = self.drop6(act(self.fc6(self.drop5(x))))  # (N, 4096)
        x = self.drop7(act(self.fc7(x)))  # (N, 4096)
        logits: Tensor = self.fc8(x)
        return logits


def initialise(model: AlexNet, weight_init: str) -> None:
    """Initialise weights and biases in place, drawing from torch's global random state.

    Raises ValueError if `weight_init` is neither "paper" nor "kaiming".
    """
    if weight_init not in {"paper", "kaiming"}:
        raise ValueError(f"weight_init is {weight_init!r}; it must be 'paper' or 'kaiming'")
    for name, layer in weighted_layers(model):
        assert layer.bias is not None
        if weight_init == "kaiming" and name != "fc8":
            gain = nn.init.calculate_gain("relu" if model.variant.activation == "relu" else "tanh")
            nn.init.normal_(layer.weight, std=gain / layer.weight[0].numel() ** 0.5)
        else:
            nn.init.normal_(layer.weight, std=0.01)
        ones = weight_init == "paper" and name in {"conv2", "conv4", "conv5", "fc6", "fc7"}
        nn.init.constant_(layer.bias, 1.0 if ones else 0.0)


def weighted_layers(model: AlexNet) -> Iterator[tuple[str, nn.Conv2d | nn.Linear]]:
    """Yield the names and modules of the eight layers with weights, in order."""
    for name, layer in model.named_children():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            yield name, layer


def layer_table(model: AlexNet) -> list[Layer]:
    """Measure every layer's output shape, parameters and multiply-adds with one forward pass.

    Rows are the layers with weights, the normalisations and the poolings, in order. Multiply-adds count
    the weights only.
    """
    rows: list[Layer] = []
    hooks = [
        layer.register_forward_hook(
            lambda _module, _inputs, output, name=name, layer=layer: rows.append(_row(name, layer, output))
        )
        for name, layer in model.named_children()
        if not isinstance(layer, nn.Dropout | nn.Identity)
    ]
    with torch.no_grad():
        model(torch.zeros(1, 3, 224, 224))
    for hook in hooks:
        hook.remove()
    # One pooling module is used three times: each use gets the number of the layer before it.
    last = ""
    for index, row in enumerate(rows):
        last = row.name[-1] if row.name != "pool" else last
        rows[index] = replace(row, name=f"pool{last}") if row.name == "pool" else row
    return rows


def _row(name: str, layer: nn.Module, output: Tensor) -> Layer:
    shape = tuple(output.shape[1:])
    parameters = sum(p.numel() for p in layer.parameters())
    positions = shape[1] * shape[2] if len(shape) == 3 else 1
    weight = layer.weight.numel() if isinstance(layer, nn.Conv2d | nn.Linear) else 0
    return Layer(name, shape, parameters, weight * positions)
