"""Augment whole batches: the paper's crops and colours, stronger ones for small sets, and mixing.

The pixels stay on their device. Copies to it do not wait for it (`non_blocking`), so that a GPU is given
the next step while it computes one. Every random draw comes from the generator that is passed in, which the
training loop seeds for each step: a resumed run sees the same crops as an uninterrupted one.
"""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

ROTATION = 15.0  # degrees either way, strong()
MIN_AREA = 0.2  # of the square, the smallest zoomed crop, strong()
MIN_SIDE = 32  # pixels, coarsen()
JITTER = 0.3  # brightness, contrast and saturation vary by up to this fraction, strong()
_LUMA = (0.299, 0.587, 0.114)


@dataclass(frozen=True)
class Draws:
    """Random numbers for the images `rows` of a batch of `total` images.

    They are drawn for the whole batch, so that several processes that share a batch give every image the
    same numbers as a single process.
    """

    generator: Generator
    total: int
    rows: slice

    def uniform(self, low: float = 0.0, high: float = 1.0) -> Tensor:
        """Draw one number from `low` to `high` for each image."""
        return torch.rand(self.total, generator=self.generator)[self.rows] * (high - low) + low

    def normal(self, count: int) -> Tensor:
        """Draw `count` numbers of a standard normal distribution for each image."""
        return torch.randn(self.total, count, generator=self.generator)[self.rows]

    def integers(self, below: int, count: int) -> Tensor:
        """Draw `count` integers from 0 to `below` - 1 for each image."""
        return torch.randint(0, below, (self.total, count), generator=self.generator)[self.rows]


def paper(squares: Tensor, size: int, colours: Tensor, draws: Draws, crops: bool = True) -> Tensor:
    """Augment as in section 4.1: a random crop, mirrored half of the time, and a PCA colour shift.

    `squares` (N, H, H, 3) uint8. The columns of `colours` (3, 3) are the eigenvectors of the training
    set's RGB covariance, each times its eigenvalue, on the scale 0 to 1 (see `colour_components`).
    Without `crops`, every crop is the centre and not mirrored.
    -> (N, 3, size, size) float32, 0 to 255; the colour shift may leave that range.
    """
    margin = squares.shape[1] - size
    corners = draws.integers(margin + 1, 2).tolist()
    mirrored = draws.uniform() < 0.5
    if not crops:
        corners, mirrored = [[margin // 2] * 2] * len(squares), torch.zeros_like(mirrored)
    cropped = torch.stack(
        [square[y : y + size, x : x + size] for square, (y, x) in zip(squares, corners, strict=True)]
    )
    pixels = torch.where(_per_image(mirrored, squares), cropped.flip(2), cropped)
    alpha = draws.normal(3) * 0.1
    shift = alpha.to(colours.device, non_blocking=True) @ colours.T * 255
    return pixels.permute(0, 3, 1, 2).float() + shift[:, :, None, None]


def colour_components(covariance: Tensor) -> Tensor:
    """Compute the PCA colour components of an RGB covariance (3, 3), on the scale 0 to 255.

    -> (3, 3) float32, with columns p_i * lambda_i on the scale 0 to 1.
    """
    eigenvalues, eigenvectors = torch.linalg.eigh(covariance / 255**2)
    components: Tensor = eigenvectors * eigenvalues
    return components.float()


def strong(squares: Tensor, size: int, draws: Draws) -> Tensor:
    """Augment for small data sets: zoom, aspect, rotation and mirror in one resampling, then jitter.

    `squares` (N, H, H, 3) uint8 -> (N, 3, size, size) float32, 0 to 255.
    """
    n, uniform = len(squares), draws.uniform
    area, aspect = uniform(MIN_AREA, 1), torch.exp(uniform(math.log(3 / 4), math.log(4 / 3)))
    w, h = (area * aspect).sqrt().clamp(max=1), (area / aspect).sqrt().clamp(max=1)
    x, y = uniform(-1, 1) * (1 - w), uniform(-1, 1) * (1 - h)
    angle = uniform(-ROTATION, ROTATION) * (math.pi / 180)
    mirror = torch.where(uniform(0, 1) < 0.5, -1.0, 1.0)
    cos, sin = angle.cos(), angle.sin()
    rows = [cos * w * mirror, -sin * h, x, sin * w * mirror, cos * h, y]
    grid = F.affine_grid(
        torch.stack(rows, 1).view(n, 2, 3).to(squares.device, non_blocking=True),
        [n, 3, size, size],
        align_corners=False,
    )
    pixels = F.grid_sample(
        squares.permute(0, 3, 1, 2).float(), grid, padding_mode="reflection", align_corners=False
    )
    matrix, offset = _colour_jitter(squares, [uniform(1 - JITTER, 1 + JITTER) for _ in range(3)])
    # One matrix product does brightness, contrast and saturation, with a fifth of the memory passes.
    flat = torch.baddbmm(offset, matrix, pixels.flatten(2))
    return flat.clamp_(0, 255).view_as(pixels)


def _colour_jitter(squares: Tensor, factors: list[Tensor]) -> tuple[Tensor, Tensor]:
    """Combine brightness b, contrast c and saturation s into one affine map of RGB per image.

    Contrast is about the mean level, saturation about the grey value:
    p -> (s I + (1 - s) 1 luma^T)(b c p + b (1 - c) level). -> (N, 3, 3) and (N, 3, 1).
    """
    b, c, s = (factor[:, None, None].to(squares.device, non_blocking=True) for factor in factors)
    luma = torch.tensor(_LUMA).to(squares.device, non_blocking=True)
    saturate = s * torch.eye(3, device=squares.device) + (1 - s) * luma.expand(3, 3)
    level = squares[:, ::8, ::8].float().mean((1, 2, 3))[:, None, None]
    return saturate * b * c, (b * (1 - c) * level).expand(-1, 3, 1)


def coarsen(pixels: Tensor, generator: Generator) -> Tensor:
    """Reduce a random half of images (N, 3, S, S) to a random size, and enlarge them again.

    The size is from MIN_SIDE to S pixels, the same for all.
    """
    size = pixels.shape[-1]
    side = round(MIN_SIDE * (size / MIN_SIDE) ** float(torch.rand((), generator=generator)))
    chosen = torch.rand(len(pixels), generator=generator) < 0.5
    small = F.interpolate(pixels, (side, side), mode="area")
    coarse = F.interpolate(small, (size, size), mode="bilinear", align_corners=False)
    return torch.where(_per_image(chosen, pixels), coarse, pixels)


def mix(pixels: Tensor, targets: Tensor, generator: Generator) -> tuple[Tensor, Tensor]:
    """Mix each image and its target (N, classes) with another of the batch, by CutMix or mixup.

    Each is used half of the time: CutMix (Yun et al. 2019) pastes a square of the other image, mixup
    (Zhang et al. 2018, alpha 0.5) blends the two.
    """
    order = torch.randperm(len(pixels), generator=generator).to(pixels.device, non_blocking=True)
    if torch.rand((), generator=generator) < 0.5:
        side = pixels.shape[-1]
        length = int(side * math.sqrt(float(torch.rand((), generator=generator))))
        top, left = torch.randint(0, side - length + 1, (2,), generator=generator).tolist()
        window = (..., slice(top, top + length), slice(left, left + length))
        pixels = pixels.clone()
        pixels[window] = pixels[order][window]
        share = 1 - length**2 / side**2
    else:
        # Beta(1/2, 1/2) is the arcsine law; torch's own sampler takes no generator.
        share = math.sin(float(torch.rand((), generator=generator)) * math.pi / 2) ** 2
        pixels = share * pixels + (1 - share) * pixels[order]
    return pixels, share * targets + (1 - share) * targets[order]


def _per_image(values: Tensor, like: Tensor) -> Tensor:
    return values.to(like.device, non_blocking=True)[:, None, None, None]
