"""Open a file by the reader of its format: Pillow's, or one made of it that has our limits."""

from functools import lru_cache
from types import SimpleNamespace
from typing import Any, Final

from PIL import AvifImagePlugin, GifImagePlugin, WebPImagePlugin

from contract.formats.bmp import BmpFile
from contract.formats.guard import Exif, Parts
from contract.formats.jpeg import JpegFile
from contract.formats.png import PngFile
from contract.formats.rebind import UNCHECKED, rebound
from contract.formats.tiff_layout import TiffFile


class _GifFile(GifImagePlugin.GifImageFile):
    """Read a GIF of any size."""

    _seek = rebound(GifImagePlugin.GifImageFile._seek, Image=UNCHECKED)


class _WebPFile(WebPImagePlugin.WebPImageFile):
    """Read a WebP of any size."""

    _open = rebound(WebPImagePlugin.WebPImageFile._open, Image=UNCHECKED)


class _AvifFile(AvifImagePlugin.AvifImageFile):
    """Read an AVIF whose EXIF block has few values."""

    _open = rebound(AvifImagePlugin.AvifImageFile._open, Image=SimpleNamespace(Exif=Exif))


_READERS: Final[dict[str, Any]] = {
    "JPEG": JpegFile,
    "PNG": PngFile,
    "WEBP": _WebPFile,
    "GIF": _GifFile,
    "TIFF": TiffFile,
    "BMP": BmpFile,
    "AVIF": _AvifFile,
}


@lru_cache(maxsize=1)
def heif_reader() -> Any:
    """Return the reader of pillow-heif; None where that package is missing."""
    try:
        import pillow_heif.as_plugin
    except ImportError:
        return None
    pillow_heif.options.THUMBNAILS = False  # they would be listed, and are not looked at
    return pillow_heif.as_plugin.HeifImageFile


def open_picture(data: bytes, name: str) -> Any:
    """Read the header. Raises what the reader does, SyntaxError where it can make nothing of the file."""
    reader = heif_reader() if name == "HEIF" else _READERS[name]
    return reader(Parts(data, name), "")
