"""How a photograph is scaled and cropped. The id of a recipe is stored in every model file, and what an id
means never changes: a better way of scaling gets a new id.
"""

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True)
class Recipe:
    """How a photograph becomes the network's pixels (the paper, section 2).

    The shorter side is scaled to `resize` pixels and crops of `crop` x `crop` are taken from the
    central `resize` x `resize` square. Only the part that a crop needs is resampled, with Pillow's
    `resize(box=...)` and its antialiased bilinear filter; a pixel of any two crops of one picture
    that covers the same place has the same value. With `scaled_jpeg`, JPEG files are decoded at
    1/2, 1/4 or 1/8 of their size while the shorter side stays at `resize` or more.

    `whole` is torchvision's way, for weights that were trained with it: the whole picture is scaled, the
    longer side to a whole number of pixels, and the square begins at a whole number too.
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
