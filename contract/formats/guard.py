"""Bounds where Pillow has none: against small files that would cost minutes or gigabytes.

Pillow's own loops over a file's parts run in Python, a part at a time, and a file of 20 MB can have ten
million of them. A sound picture has a few thousand at most.
"""

import io
from collections import Counter
from collections.abc import Callable
from typing import Any, Final

from PIL import Image, TiffImagePlugin

# Of parts, that is segments, chunks, blocks, runs: each takes one to four reads, about a microsecond each.
_MOST_READS: Final = 100_000
_MOST_VALUES: Final = 100_000  # of one tag of TIFF or EXIF: strips; nothing else has nearly as many
_NUMBERS: Final = {3, 4, 5, 6, 8, 9, 10, 11, 12, 13, 16}  # the types of TIFF that become Python objects
# By a segment's beginning, that of a block, and how many: EXIF, which Pillow joins by copying what it has
# for each new one; Photoshop's resources.
_MOST_BLOCKS: Final = {b"Exif\0\0": (b"Exif\0\0", 100), b"Photoshop 3.0\0": (b"8BIM", 10_000)}
_MOST_COMPRESSED: Final = 100  # chunks of a PNG, text and profiles; Pillow unpacks a megabyte of each


def _bounded(load: Callable[..., Any], size: int) -> Callable[..., Any]:
    def bounded(self: Any, data: bytes, legacy_api: bool = True) -> Any:
        if len(data) > _MOST_VALUES * size:
            raise ValueError(f"a tag has {len(data) // size} values; at most {_MOST_VALUES} are read")
        return load(self, data, legacy_api)

    return bounded


_LOADERS: Final = {
    kind: (size, _bounded(load, size) if kind in _NUMBERS else load)
    for kind, (size, load) in TiffImagePlugin.ImageFileDirectory_v2._load_dispatch.items()
}


class Directory(TiffImagePlugin.ImageFileDirectory_v2):
    """Read the tags of a TIFF or an EXIF block, each of at most _MOST_VALUES values."""

    _load_dispatch = _LOADERS


class Exif(Image.Exif):
    """Read an EXIF block by a `Directory`."""

    @property
    def _info(self) -> Any:
        return self._directory

    @_info.setter
    def _info(self, directory: Any) -> None:
        if directory is not None:
            directory._load_dispatch = _LOADERS
        self._directory = directory

    def _get_ifd_dict(self, offset: int, group: int | None = None) -> dict[int, Any] | None:
        directory = Directory(self.head, group=group)
        self.fp.seek(offset)
        directory.load(self.fp)
        return self._fixup_dict(dict(directory))


class Parts(io.BytesIO):
    """A file in memory that is read in a limited number of parts, in a JPEG with a limited number of blocks
    of metadata. Raises ValueError past it.
    """

    def __init__(self, data: bytes, kind: str) -> None:
        super().__init__(data)
        self._left = _MOST_READS
        self._metadata = tuple(_MOST_BLOCKS) if kind == "JPEG" else ()
        self._blocks: Counter[bytes] = Counter()
        self._compressed = 0

    def read(self, size: int | None = -1, /) -> bytes:
        self._left -= 1
        if self._left < 0:
            raise ValueError(f"more than {_MOST_READS} parts")
        part = super().read(size)
        if part.startswith(self._metadata):  # Pillow reads a segment in one piece
            self._count_blocks(part)
        return part

    def count_compressed(self) -> None:
        """Pillow counts what such chunks hold, but not those whose checksum is wrong, nor profiles."""
        self._compressed += 1
        if self._compressed > _MOST_COMPRESSED:
            raise ValueError(f"more than {_MOST_COMPRESSED} chunks of text and profiles")

    def _count_blocks(self, segment: bytes) -> None:
        block, most = next(found for start, found in _MOST_BLOCKS.items() if segment.startswith(start))
        self._blocks[block] += segment.count(block)
        if self._blocks[block] > most:
            raise ValueError(f"more than {most} blocks of metadata ({block[:4].decode()})")
