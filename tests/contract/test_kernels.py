"""Test the picture of the kernels of a first layer."""

import numpy as np
import pytest

from contract.kernels import kernels_picture


def test_each_kernel_is_stretched_and_placed_in_its_cell() -> None:
    weight = np.zeros((14, 3, 11, 11), np.float32)
    weight[13, 0, 5, 5], weight[13, 1, 0, 0] = 2.0, -1.0
    pixels = np.asarray(kernels_picture(weight, scale=1))
    assert pixels.shape == (2 * 13 + 2, 12 * 13 + 2, 3)
    kernel = pixels[15:26, 15:26]  # the second in the second row
    assert kernel[5, 5].tolist() == [255, 85, 85]
    assert kernel[0, 0].tolist() == [85, 0, 85]
    assert (pixels[0] == 255).all()
    assert (pixels[:, 2 * 13 + 2 :][15:] == 255).all()  # where the last row has no kernel


def test_scale_enlarges_each_weight_to_a_square() -> None:
    weight = np.random.default_rng(0).normal(size=(1, 3, 5, 5))
    small, large = (np.asarray(kernels_picture(weight, scale)) for scale in (1, 3))
    np.testing.assert_array_equal(np.kron(small[2:7, 2:7], np.ones((3, 3, 1))), large[2:17, 2:17])


@pytest.mark.parametrize(
    ("extreme", "pixel"), [(0.0, (0, 0, 0)), (1e-30, (0, 0, 0)), (3e38, (255, 128, 0))]
)
def test_extreme_weights_stay_within_the_range(extreme: float, pixel: tuple[int, int, int]) -> None:
    weight = np.zeros((2, 3, 11, 11), np.float32)
    weight[0, 0, 0, 0], weight[0, 2, 0, 0] = extreme, -extreme
    assert kernels_picture(weight, scale=1).getpixel((2, 2)) == pixel
