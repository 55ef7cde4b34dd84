"""Open an image file with the reader of its format: a subclass of Pillow's with our limits."""

from functools import lru_cache
from types import SimpleNamespace
from typing import Any, Final

from PIL import AvifImagePlugin, WebPImagePlugin

from contract.formats.bmp import BmpFile
from contract.formats.gif import GifFile
from contract.formats.guard import BoundedFile, Exif
from contract.formats.jpeg import JpegFile
from contract.formats.png import PngFile
from contract.formats.rebind import UNCHECKED, with_globals
from contract.formats.tiff import TiffFile


class _WebPFile(WebPImagePlugin.WebPImageFile):
    """Read a WebP of any size."""

    _open = with_globals(WebPImagePlugin.WebPImageFile._open, Image=UNCHECKED)


class _AvifFile(AvifImagePlugin.AvifImageFile):
    """Read an AVIF, its EXIF block with the limits of `guard.Exif`."""

    _open = with_globals(AvifImagePlugin.AvifImageFile._open, Image=SimpleNamespace(Exif=Exif))


_READERS: Final[dict[str, Any]] = {
    "JPEG": JpegFile,
    "PNG": PngFile,
    "WEBP": _WebPFile,
    "GIF": GifFile,
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
    pillow_heif.options.THUMBNAILS = False  # listing them takes time, and nothing reads them
    return pillow_heif.as_plugin.HeifImageFile


def open_picture(data: bytes, name: str) -> Any:
    """Open a file of the format `name` (as `sniff` names it) and read its header.

    Raises whatever the reader raises; SyntaxError where it does not recognise the file.
    """
    reader = heif_reader() if name == "HEIF" else _READERS[name]
    return reader(BoundedFile(data, name), "")
