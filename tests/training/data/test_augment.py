"""Augmentation draws only from its generator, and follows the paper and its docstrings."""

from collections.abc import Callable

import pytest
import torch
from torch import Generator, Tensor

from training.data import augment
from training.data.augment import Draws

NO_COLOUR = torch.zeros(3, 3)


def squares(count: int = 6, side: int = 64, seed: int = 0) -> Tensor:
    return torch.randint(0, 256, (count, side, side, 3), dtype=torch.uint8, generator=seeded(seed))


def seeded(seed: int) -> Generator:
    return Generator().manual_seed(seed)


def every(count: int, generator: Generator) -> Draws:
    return Draws(generator, count, slice(None))


def a_mix(pixels: Tensor, generator: Generator) -> Tensor:
    mixed, targets = augment.mix(pixels.permute(0, 3, 1, 2).float(), torch.eye(len(pixels)), generator)
    return torch.cat([mixed.flatten(), targets.flatten()])


@pytest.mark.parametrize(
    "draw",
    [
        lambda pixels, generator: augment.paper(pixels, 56, torch.eye(3), every(len(pixels), generator)),
        lambda pixels, generator: augment.strong(pixels, 56, every(len(pixels), generator)),
        a_mix,
    ],
    ids=["paper", "strong", "mix"],
)
def test_augmentation_depends_only_on_the_generator(draw: Callable[[Tensor, Generator], Tensor]) -> None:
    torch.manual_seed(1)
    first = draw(squares(), seeded(5))
    torch.manual_seed(2)  # the global state has no effect
    assert torch.equal(first, draw(squares(), seeded(5)))
    assert not torch.equal(first, draw(squares(), seeded(6)))


def test_paper_crops_are_random_and_mirrored_half_of_the_time() -> None:
    """Each pixel encodes its place: red is the column, green the row."""
    side, size, count = 64, 56, 400
    place = torch.arange(side, dtype=torch.uint8)
    columns, rows = place.expand(side, side), place[:, None].expand(side, side)
    image = torch.stack([columns, rows, torch.full_like(rows, 9)], dim=2)
    crops = augment.paper(image.expand(count, -1, -1, -1), size, NO_COLOUR, every(count, seeded(0)))
    assert crops.shape == (count, 3, size, size)
    across = crops[:, 0, 0, 1] - crops[:, 0, 0, 0]
    assert set(across.tolist()) == {1.0, -1.0}
    assert 0.4 < (across < 0).float().mean() < 0.6
    left, top = crops[:, 0, 0].amin(1), crops[:, 1, 0, 0]
    # Each of the nine by nine corners occurs, and no other.
    assert set(left.tolist()) == set(top.tolist()) == set(range(side - size + 1))
    for crop, x, y in zip(crops, left, top, strict=True):
        expected = image[int(y) : int(y) + size, int(x) : int(x) + size].permute(2, 0, 1)
        assert torch.equal(
            crop, expected.flip(2).float() if crop[0, 0, 0] > crop[0, 0, 1] else expected.float()
        )


def test_without_crops_every_image_is_its_centre() -> None:
    images = squares(6, 64)
    pixels = augment.paper(images, 56, NO_COLOUR, every(6, seeded(0)), crops=False)
    assert torch.equal(pixels, images[:, 4:60, 4:60].permute(0, 3, 1, 2).float())
    coloured = augment.paper(images, 56, torch.eye(3), every(6, seeded(0)), crops=False)
    cropped = augment.paper(images, 56, torch.eye(3), every(6, seeded(0)))
    flat = augment.paper(images, 56, NO_COLOUR, every(6, seeded(0)))
    torch.testing.assert_close(coloured - pixels, cropped - flat)  # the same colour shifts


def test_eigenvalues_are_those_of_the_scale_0_to_1() -> None:
    values = torch.randn(5000, 3, generator=seeded(0)).double() * torch.tensor([50.0, 30.0, 20.0]) + 120
    covariance = torch.cov(values.T, correction=0)
    components = augment.colour_components(covariance).double()
    eigenvalues = torch.linalg.eigvalsh(torch.cov(values.T / 255, correction=0))
    # Columns p_i * lambda_i, p_i of length 1.
    torch.testing.assert_close(components.norm(dim=0), eigenvalues, rtol=1e-5, atol=1e-8)
    products = covariance / 255**2 @ components
    torch.testing.assert_close(products, components * eigenvalues, rtol=1e-5, atol=1e-7)
    assert components.abs().max() < 1  # on the scale 0 to 255 they would be thousands


def test_the_colour_shift_has_a_tenth_of_the_components_as_deviation() -> None:
    covariance = torch.tensor([[2500.0, 2000, 1500], [2000, 2400, 1700], [1500, 1700, 2600]]).double()
    components = augment.colour_components(covariance)
    count = 20_000
    grey = torch.full((count, 2, 2, 3), 100, dtype=torch.uint8)
    shift = augment.paper(grey, 2, components, every(count, seeded(0))) - 100
    assert torch.equal(shift, shift[:, :, :1, :1].expand_as(shift))  # the same at every pixel
    per_image = shift[:, :, 0, 0].double()
    expected = (components @ components.T).double() * 0.1**2 * 255**2
    torch.testing.assert_close(per_image.mean(0), torch.zeros(3).double(), rtol=0, atol=0.05)
    torch.testing.assert_close(torch.cov(per_image.T), expected, rtol=0.05, atol=0.02)


def test_strong_keeps_to_0_to_255_and_to_its_size() -> None:
    pixels = augment.strong(squares(40), 48, every(40, seeded(3)))
    assert pixels.shape == (40, 3, 48, 48)
    assert pixels.dtype == torch.float32
    assert pixels.min() == 0
    assert pixels.max() == 255  # brightened noise reaches both ends of the range and exceeds none


def test_strong_adds_no_colours_to_a_plain_picture() -> None:
    """Crops beyond the picture or black corners of a rotation would add colours."""
    plain = torch.full((200, 40, 40, 3), 120, dtype=torch.uint8)
    pixels = augment.strong(plain, 32, every(len(plain), seeded(0)))
    spread = pixels.amax((2, 3)) - pixels.amin((2, 3))
    assert spread.max() < 1e-2
    levels = pixels.mean((1, 2, 3)) / 120
    low, high = 1 - augment.JITTER, 1 + augment.JITTER
    assert low - 1e-3 <= levels.min() < low + 0.05
    assert high - 0.05 < levels.max() <= high + 1e-3


def test_colour_matrix_equals_brightness_contrast_and_saturation() -> None:
    pixels = squares(5, 40, seed=2)
    factors = [torch.linspace(0.7, 1.3, 5).roll(k) for k in range(3)]
    matrix, offset = augment._colour_jitter(pixels, factors)
    planes = pixels.permute(0, 3, 1, 2).double()
    jittered = (matrix.double() @ planes.flatten(2) + offset.double()).view_as(planes)

    brightness, contrast, saturation = (f.double()[:, None, None, None] for f in factors)
    level = pixels[:, ::8, ::8].double().mean((1, 2, 3))[:, None, None, None]  # of a sample of the pixels
    step = brightness * (level + contrast * (planes - level))
    luma = torch.tensor([0.299, 0.587, 0.114]).double()[:, None, None]
    grey = (step * luma).sum(1, keepdim=True)
    step = grey + saturation * (step - grey)
    torch.testing.assert_close(jittered, step, rtol=1e-5, atol=1e-3)


def test_half_of_the_images_lose_detail_down_to_32_pixels() -> None:
    noise = torch.rand(100, 3, 64, 64, generator=seeded(1)) * 255
    rest = set()
    for seed in range(12):
        coarse = augment.coarsen(noise, seeded(seed))
        changed = (coarse != noise).flatten(1).any(1)
        assert 25 <= changed.sum() <= 75
        rest.add(round(float(coarse[changed].var() / noise.var()), 2))
    assert len(rest) > 5, "the size is drawn"
    # A quarter of the pixels hold a quarter of the variance, and less once they are interpolated.
    assert 0.05 < min(rest) < 0.2


def test_mix_blends_targets_and_pixels_by_the_same_share() -> None:
    """Image i has the level i and the target i, so the mean level of a mixture is its target's mean."""
    count, side = 8, 40
    levels = torch.arange(count).float()
    pixels = levels[:, None, None, None].expand(count, 3, side, side)
    kinds = set()
    for seed in range(60):
        mixed, targets = augment.mix(pixels, torch.eye(count), seeded(seed))
        assert (targets >= 0).all()
        torch.testing.assert_close(targets.sum(1), torch.ones(count))
        torch.testing.assert_close(mixed.mean((1, 2, 3)), targets @ levels, rtol=1e-4, atol=1e-4)
        whole = mixed == mixed.round()
        kinds.add("cutmix" if whole.all() else "mixup")
    assert kinds == {"cutmix", "mixup"}
    assert torch.equal(pixels, levels[:, None, None, None].expand(count, 3, side, side))  # not in place


@pytest.mark.parametrize(
    "augmented",
    [
        lambda pixels, draws: augment.paper(pixels, 56, torch.eye(3), draws),
        lambda pixels, draws: augment.strong(pixels, 56, draws),
    ],
    ids=["paper", "strong"],
)
def test_a_share_of_a_batch_is_augmented_as_in_the_whole_batch(
    augmented: Callable[[Tensor, Draws], Tensor],
) -> None:
    whole = augmented(squares(), every(6, seeded(5)))
    rows = slice(2, 4)
    part = augmented(squares()[rows], Draws(seeded(5), 6, rows))
    torch.testing.assert_close(part, whole[rows])
