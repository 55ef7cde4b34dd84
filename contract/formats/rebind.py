"""Copy a Pillow method so that it sees our limits instead of Pillow's; nothing is patched.

A program that imports this package may read other pictures with Pillow, in other threads at the same time,
so nothing in Pillow's modules is patched. A reader here is a subclass of Pillow's. Where Pillow's method
takes a limit or a table from its module, the subclass has a copy of the method that sees ours instead.
"""

from collections.abc import Callable
from types import FunctionType, ModuleType
from typing import Any, Final

from PIL import Image

UPRIGHT: Final = {  # by EXIF orientation; 1 is upright
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def with_globals(function: Callable[..., Any], **names: Any) -> Any:
    """Copy a function of Pillow so that it sees `names` in place of those globals of its module."""
    assert isinstance(function, FunctionType)
    assert names.keys() <= set(function.__code__.co_names), (
        "this version of Pillow does not use that global"
    )
    scope = {**function.__globals__, **names}
    return FunctionType(
        function.__code__, scope, function.__name__, function.__defaults__, function.__closure__
    )


def _unchecked() -> Any:
    module = ModuleType("PIL.Image")
    vars(module).update(vars(Image), _decompression_bomb_check=lambda *_size, **_how: None)
    return module


# PIL.Image without its warning of large pictures: the caller's `max_pixels` is the limit, and an error.
UNCHECKED: Final = _unchecked()
