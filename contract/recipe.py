"""Define the recipes: how a photograph is scaled and cropped.

Every model file stores the id of its recipe. The meaning of an id never changes: a better recipe gets a new
id.
"""

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True)
class Recipe:
    """How a photograph becomes the network's pixels (section 2 of the paper).

    The shorter side is scaled to `resize` pixels and crops of `crop` x `crop` are taken from the
    central `resize` x `resize` square. Only the part that a crop needs is resampled, with Pillow's
    `resize(box=...)` and its antialiased bilinear filter. Where two crops of one picture overlap, their
    pixels are equal. With `scaled_jpeg`, JPEG files are decoded at
    1/2, 1/4 or 1/8 of their size while the shorter side stays at `resize` or more.

    `whole` is the way of torchvision, for weights trained with it: the whole picture is scaled, its longer
    side to an integer number of pixels, and the square begins at an integer position.
    """

    id: str
    resize: int
    crop: int
    scaled_jpeg: bool
    whole: bool = False


RECIPES: Final = {
    recipe.id: recipe
    for recipe in [
        Recipe("bilinear-box-256-224-scaledjpeg", 256, 224, scaled_jpeg=True),
        Recipe("bilinear-whole-256-224", 256, 224, scaled_jpeg=False, whole=True),
    ]
}
TORCHVISION_RECIPE: Final = RECIPES["bilinear-whole-256-224"]
DEFAULT_RECIPE: Final = RECIPES["bilinear-box-256-224-scaledjpeg"]


def nvjpeg_id(recipe: Recipe) -> str:
    """Return the id of a recipe's preprocessing where nvJPEG has decoded the file, at its full size.

    No model has it: what is measured, and most of what is served, is decoded by libjpeg-turbo.
    """
    return f"bilinear-{'whole' if recipe.whole else 'box'}-{recipe.resize}-{recipe.crop}-nvjpeg"
