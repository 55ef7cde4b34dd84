"""What decoding a TIFF takes, by its tags: libtiff unpacks every strip or tile, wherever its bytes lie."""

import struct
from collections.abc import Sequence
from typing import Any, Final

from PIL import ImageFile, TiffImagePlugin

_JPEG: Final = {"jpeg", "tiff_jpeg"}
_MOST_SCANS: Final = 20  # of a strip on average; a progressive JPEG has about ten
_MOST_SCANS_AT_ALL: Final = 200_000  # each takes a microsecond, however small it is
_OFFSETS: Final = (TiffImagePlugin.STRIPOFFSETS, TiffImagePlugin.TILEOFFSETS)
# From the size to the predictor, tiles, extra samples, the format of samples, the resolution of colours.
_LAYOUT: Final = frozenset(
    {*range(256, 260), 262, 266, 273, *range(277, 280), 284, 317, *range(322, 326)}
) | {*(338, 339, 530)}
_COUNTS: Final = (TiffImagePlugin.STRIPBYTECOUNTS, TiffImagePlugin.TILEBYTECOUNTS)


def require_plain_tiles(tiles: list[ImageFile._Tile], tags: Any, pixels: int) -> None:
    """Require strips or tiles that cover the picture a few times at most, once for each channel.

    None may be much larger than the picture. Raises ValueError.
    """
    boxes = [tile.extents or (0, 0, 0, 0) for tile in tiles]
    covered = sum((right - left) * (bottom - top) for left, top, right, bottom in boxes)
    if covered > 8 * pixels or _tile_pixels(tags) > 4 * pixels + 4_000_000:
        raise ValueError("its tiles are much larger than the picture")


def require_own_data(data: bytes, tags: Any, coding: str) -> None:
    """Require that the strips or tiles share no bytes, and those of JPEG few scans. Raises ValueError."""
    _require_same_tags(data, tags)
    counts = [count for tag in _COUNTS for count in _numbers(tags.get(tag, ()))]
    if sum(counts) > len(data) and coding != "raw":  # plain pixels are copied, as many as the picture has
        raise ValueError(f"its strips or tiles have {sum(counts)} bytes in all, and the file {len(data)}")
    if coding in _JPEG:
        offsets = [offset for tag in _OFFSETS for offset in _numbers(tags.get(tag, ()))]
        _require_plain_jpeg(data, [(start, start + n) for start, n in zip(offsets, counts, strict=False)])


def _require_same_tags(data: bytes, tags: Any) -> None:
    """Require that libtiff sees the layout that Pillow has in `tags`: no tag is there twice, of which they
    take different ones, and none of a type or size that Pillow passes over. Raises ValueError.
    """
    order = "<" if data[:2] == b"II" else ">"
    big = data[2] + data[3] == 43  # BigTIFF, whose offsets have 64 bits
    (at,) = struct.unpack_from(order + "Q", data, 8) if big else struct.unpack_from(order + "I", data, 4)
    (count,) = struct.unpack_from(order + ("Q" if big else "H"), data, at)
    first, size = (at + 8, 20) if big else (at + 2, 12)
    if count > (len(data) - first) // size:
        raise ValueError(f"it claims {count} tags")
    found = [struct.unpack_from(order + "H", data, first + size * n)[0] for n in range(count)]
    if len(set(found)) < count:
        raise ValueError("a tag is there twice")
    for tag in _LAYOUT.intersection(found):
        if tag not in tags:
            raise ValueError(f"its tag {tag} is of a type or size that is not read")


def _numbers(value: Any) -> Sequence[int]:
    numbers = (value,) if isinstance(value, int) else value
    if not all(isinstance(number, int) and number >= 0 for number in numbers):
        raise ValueError("the places of its strips or tiles are no numbers")
    return numbers


def _require_plain_jpeg(data: bytes, strips: list[tuple[int, int]]) -> None:
    scans = sum(data.count(b"\xff\xda", start, end) for start, end in strips)
    if scans > min(_MOST_SCANS * len(strips), _MOST_SCANS_AT_ALL):
        raise ValueError(f"{scans} scans are too many for {len(strips)} strips or tiles")
    if any(data.find(bytes([0xFF, kind]), *strip) >= 0 for strip in strips for kind in (0xC9, 0xCA)):
        raise ValueError("its arithmetic coding is not read; save it as a baseline JPEG")


def decoded_bytes(tags: Any, width: int, height: int, coding: str) -> int:
    """Bound the bytes for the picture and for what libtiff unpacks at once.

    Where the time is what is dear, they are those that would take as long.
    """
    depth = max(tags.get(TiffImagePlugin.BITSPERSAMPLE, (1,)))
    bits = int(depth * tags.get(TiffImagePlugin.SAMPLESPERPIXEL, 1))
    rows = tags.get(TiffImagePlugin.ROWSPERSTRIP, height)
    strip = _tile_pixels(tags) or width * (min(rows, height) if isinstance(rows, int) else height)
    # LZMA takes 26 ns for a byte, the others 4 at most; a second is 300 million bytes.
    dear = bits if coding == "lzma" else bits // 4
    least = 12 if tags.get(TiffImagePlugin.BITSPERSAMPLE) == (16, 16) else 8  # it is copied once more
    return max(least, dear) * width * height + strip * bits // 8


def _tile_pixels(tags: Any) -> int:
    """Of a tile; 0 for strips."""
    width, height = tags.get(TiffImagePlugin.TILEWIDTH), tags.get(TiffImagePlugin.TILELENGTH)
    return width * height if isinstance(width, int) and isinstance(height, int) else 0
