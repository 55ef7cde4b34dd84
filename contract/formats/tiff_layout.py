"""Which layouts of TIFF are read: those that Pillow lacks or garbles, and what is refused."""

from typing import Any, Final

from PIL import ExifTags, Image, TiffImagePlugin

from contract.errors import InvalidImage
from contract.formats.guard import Directory
from contract.formats.rebind import UNCHECKED, UPRIGHT, rebound

UNREAD: Final = "its samples are not read; save it as grey, RGB or CMYK with 8 or 16 bits a sample"
_BITS: Final = TiffImagePlugin.BITSPERSAMPLE
_EXTRA: Final = TiffImagePlugin.EXTRASAMPLES
_MODES_OF_ALPHA: Final = {1: "La", 2: "LA"}  # by ExtraSamples: multiplied with it, or not
_FULL_12: Final = "levels of 12 bits"


def _open_info() -> dict[Any, tuple[str, str]]:
    """Pillow's table of layouts, with what it lacks and without what it takes for something else."""
    known: dict[Any, tuple[str, str]] = dict(TiffImagePlugin.OPEN_INFO)
    for order in (b"II", b"MM"):
        del known[order, 1, (2,), 1, (8,), ()]  # signed: which level is white is not said
        known[order, 1, (2,), 1, (16,), ()] = "I", "I;16NS"
        known[order, 1, (2,), 1, (32,), ()] = "I", "I;32NS"
        known[order, 1, (1,), 1, (32,), ()] = "I", "I;32N"
        for photometric in (0, 1):
            known[order, photometric, (1,), 1, (12,), ()] = "I;16", "I;12"
            known[order, photometric, (1,), 1, (16,), ()] = "I;16", "I;16"
        known[order, 1, (1,), 1, (8, 8), ()] = "LA", "LA"  # as Pillow takes a fourth sample of RGB
        for extra in ((), (0,), (1,), (2,)):  # the four bytes of grey and alpha; see `decoded`
            known[order, 1, (1,), 1, (16, 16), extra] = "RGBA", "RGBA"
    for (order, photometric, kind, _fill, *rest), modes in list(known.items()):
        known.setdefault((order, photometric, kind, 2, *rest), modes)
    return known


class TiffFile(TiffImagePlugin.TiffImageFile):
    """Read a TIFF by libtiff, whose pixels `_open_info` names, and turn it upright by its own tag alone.

    Pillow's own reader of plain pixels takes planes of 16 bits for those of 8, and colours of a lower
    resolution for full ones; libtiff, which has them right, reads all. It returns 16 and 32 bits in the
    machine's order, and the bits of a byte from the highest on.
    """

    _open = rebound(TiffImagePlugin.TiffImageFile._open, ImageFileDirectory_v2=Directory)
    _setup = rebound(TiffImagePlugin.TiffImageFile._setup, OPEN_INFO=_open_info(), READ_LIBTIFF=True)
    load_prepare = rebound(TiffImagePlugin.TiffImageFile.load_prepare, Image=UNCHECKED)

    def load_end(self) -> None:
        method = UPRIGHT.get(self.tag_v2.get(ExifTags.Base.Orientation, 1))
        if method is not None:
            self.im = self.im.transpose(method)
            self._size = self.im.size


def require_known_planes(image: Any) -> None:
    """Require planes that Pillow puts where they belong. Raises InvalidImage."""
    tags = image.tag_v2
    if tags.get(TiffImagePlugin.PLANAR_CONFIGURATION) != 2:
        return
    photometric, samples = tags.get(262), tags.get(TiffImagePlugin.SAMPLESPERPIXEL, 1)
    if (photometric in {0, 1, 3} and samples > 1) or (
        photometric == 2 and samples > 3 and _EXTRA not in tags
    ):
        raise InvalidImage(
            "a plane of alpha beside grey, or beside RGB without ExtraSamples, is not read; save it with "
            "the samples of a pixel together (PlanarConfiguration 1)"
        )


def decoded(image: Any) -> Any:
    """What is in the pixels that Pillow could read only as something else."""
    bits = image.tag_v2.get(_BITS)
    if bits == (12,):
        image.info[_FULL_12] = True
    if bits != (16, 16):
        return image
    grey, alpha = image.getchannel(1), image.getchannel(3)  # the upper bytes
    mode = _MODES_OF_ALPHA.get(image.tag_v2.get(_EXTRA, (2,))[0])
    return Image.merge(mode, (grey, alpha)) if mode else grey


def has_12_bits(image: Image.Image) -> bool:
    return _FULL_12 in image.info
