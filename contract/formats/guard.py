"""Bounds where Pillow has none: against small files that would cost minutes or gigabytes.

Pillow's own loops over a file's parts run in Python, a part at a time, and a file of 20 MB can have ten
million of them. A sound picture has a few thousand at most.
"""

import io
from collections import Counter
from collections.abc import Callable
from typing import Any, Final

from PIL import JpegImagePlugin, PngImagePlugin, TiffImagePlugin

# Of parts, that is segments, chunks, blocks, runs: each takes one to four reads, about a microsecond each.
_MOST_READS: Final = 100_000
_MOST_VALUES: Final = 100_000  # of one tag of TIFF or EXIF: strips; nothing else has nearly as many
_NUMBERS: Final = {3, 4, 5, 6, 8, 9, 10, 11, 12, 13, 16}  # the types of TIFF that become Python objects
# By a segment's beginning, that of a block, and how many: EXIF, which Pillow joins by copying what it has
# for each new one; Photoshop's resources.
_MOST_BLOCKS: Final = {b"Exif\0\0": (b"Exif\0\0", 100), b"Photoshop 3.0\0": (b"8BIM", 10_000)}
_MOST_COMPRESSED: Final = 100  # chunks of a PNG, text and profiles; Pillow unpacks a megabyte of each


def install() -> None:
    """Once, for the process: limits that Pillow keeps in its modules."""
    PngImagePlugin.MAX_TEXT_MEMORY = 8_000_000  # characters; a wide one takes four bytes
    dispatch = TiffImagePlugin.ImageFileDirectory_v2._load_dispatch
    for kind in _NUMBERS & dispatch.keys():
        size, load = dispatch[kind]
        dispatch[kind] = size, _bounded(load, size)
    for name in ("chunk_iCCP", "chunk_zTXt", "chunk_iTXt"):
        setattr(PngImagePlugin.PngStream, name, _counted(getattr(PngImagePlugin.PngStream, name)))
    markers: Any = JpegImagePlugin.MARKER
    for marker in range(0xC3, 0xD0):  # lossless, differential and arithmetic coding
        if marker not in {0xC4, 0xC8, 0xCC}:
            markers[0xFF00 | marker] = f"SOF{marker - 0xC0}", "", _refuse_coding


def _counted(load: Callable[..., bytes]) -> Callable[..., bytes]:
    def counted(self: Any, pos: int, length: int) -> bytes:
        if isinstance(self.fp, Parts):
            self.fp.count_compressed()
        return load(self, pos, length)

    return counted


def _refuse_coding(_image: Any, marker: int) -> None:
    """Refuse what no camera writes and no browser shows, and what can cost far more than its size."""
    raise ValueError(
        f"its coding (SOF{marker & 15}) is not read; save it as a baseline or progressive JPEG"
    )


def _bounded(load: Callable[..., Any], size: int) -> Callable[..., Any]:
    def bounded(self: Any, data: bytes, legacy_api: bool = True) -> Any:
        if len(data) > _MOST_VALUES * size:
            raise ValueError(f"a tag has {len(data) // size} values; at most {_MOST_VALUES} are read")
        return load(self, data, legacy_api)

    return bounded


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
