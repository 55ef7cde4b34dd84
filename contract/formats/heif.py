"""Readers of AVIF, and of HEIC where the package pillow-heif is installed."""

from functools import lru_cache
from types import SimpleNamespace
from typing import Any

from PIL import AvifImagePlugin

from contract.formats.guard import Exif
from contract.formats.rebind import with_globals


class AvifFile(AvifImagePlugin.AvifImageFile):
    """Read an AVIF, its EXIF block with the limits of `guard.Exif`."""

    _open = with_globals(AvifImagePlugin.AvifImageFile._open, Image=SimpleNamespace(Exif=Exif))


@lru_cache(maxsize=1)
def heif_reader() -> Any:
    """Return the reader of pillow-heif; None where that package is missing."""
    try:
        import pillow_heif.as_plugin
    except ImportError:
        return None
    pillow_heif.options.THUMBNAILS = False  # listing them takes time, and nothing reads them
    return pillow_heif.as_plugin.HeifImageFile
