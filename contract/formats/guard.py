"""Limit the parts, tags and metadata blocks that Pillow reads, so no small file is costly.

Pillow loops over the parts of a file (segments, chunks, blocks, runs) in Python. A file of 20 MB can have
ten million of them; an intact picture has a few thousand at most. Beyond a limit ValueError is raised:
contract/picture.py makes it InvalidImage or, from `Exif`, ignores the EXIF block.
"""

import io
from collections import Counter
from collections.abc import Callable
from typing import Any, Final

from PIL import Image, TiffImagePlugin

# Each part takes one to four reads of about a microsecond each.
_MAX_READS: Final = 100_000
_MAX_VALUES: Final = 100_000  # of one tag of TIFF or EXIF; only lists of strips come near
_NUMBERS: Final = {3, 4, 5, 6, 8, 9, 10, 11, 12, 13, 16}  # types of TIFF whose values become Python objects
# By the start of a JPEG segment: the start of its blocks, and how many are read. Pillow joins EXIF blocks
# by copying all earlier ones for each new one. The other entry is for Photoshop's resources.
_MAX_BLOCKS: Final = {b"Exif\0\0": (b"Exif\0\0", 100), b"Photoshop 3.0\0": (b"8BIM", 10_000)}
_MAX_COMPRESSED: Final = 100  # PNG chunks of text and profiles; Pillow unpacks up to a megabyte of each


def _bounded(load: Callable[..., Any], size: int) -> Callable[..., Any]:
    def bounded(self: Any, data: bytes, legacy_api: bool = True) -> Any:
        if len(data) > _MAX_VALUES * size:
            raise ValueError(f"a tag has {len(data) // size} values; at most {_MAX_VALUES} are read")
        return load(self, data, legacy_api)

    return bounded


_LOADERS: Final = {
    kind: (size, _bounded(load, size) if kind in _NUMBERS else load)
    for kind, (size, load) in TiffImagePlugin.ImageFileDirectory_v2._load_dispatch.items()
}


class Directory(TiffImagePlugin.ImageFileDirectory_v2):
    """Read the tags of a TIFF or an EXIF block.

    Raises ValueError for a numeric tag of more than _MAX_VALUES values; bytes and text stay one object.
    """

    _load_dispatch = _LOADERS


class Exif(Image.Exif):
    """Read an EXIF block with the limits of `Directory`."""

    @property
    def _info(self) -> Any:
        return self._directory

    @_info.setter  # Pillow assigns a plain directory here
    def _info(self, directory: Any) -> None:
        if directory is not None:
            directory._load_dispatch = _LOADERS
        self._directory = directory

    def _get_ifd_dict(self, offset: int, group: int | None = None) -> dict[int, Any] | None:
        directory = Directory(self.head, group=group)
        self.fp.seek(offset)
        directory.load(self.fp)
        return self._fixup_dict(dict(directory))


class BoundedFile(io.BytesIO):
    """An in-memory file for Pillow that limits calls of `read`, and in a JPEG blocks of metadata.

    `read` and `count_compressed` raise ValueError beyond a limit.
    """

    def __init__(self, data: bytes, kind: str) -> None:
        super().__init__(data)
        self._reads_left = _MAX_READS
        self._metadata = tuple(_MAX_BLOCKS) if kind == "JPEG" else ()
        self._blocks: Counter[bytes] = Counter()
        self._compressed = 0

    def read(self, size: int | None = -1, /) -> bytes:
        self._reads_left -= 1
        if self._reads_left < 0:
            raise ValueError(f"more than {_MAX_READS} parts")
        part = super().read(size)
        if part.startswith(self._metadata):  # Pillow reads a segment in one piece
            self._count_blocks(part)
        return part

    def count_compressed(self) -> None:
        """Count a chunk of text or profile, for contract/formats/png.py. Raises ValueError for too many.

        Pillow limits the total size of text itself, but not of chunks with a wrong checksum, nor of
        profiles.
        """
        self._compressed += 1
        if self._compressed > _MAX_COMPRESSED:
            raise ValueError(f"more than {_MAX_COMPRESSED} chunks of text and profiles")

    def _count_blocks(self, segment: bytes) -> None:
        block, max_blocks = next(limit for start, limit in _MAX_BLOCKS.items() if segment.startswith(start))
        self._blocks[block] += segment.count(block)
        if self._blocks[block] > max_blocks:
            raise ValueError(f"more than {max_blocks} blocks of metadata ({block[:4].decode()})")
