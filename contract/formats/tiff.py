"""Read a TIFF through libtiff: supported layouts, and limits on what decoding it may cost.

libtiff unpacks every strip or tile, wherever its bytes lie, so the limits follow from the tags.
"""

import struct
from collections.abc import Sequence
from typing import Any, Final

from PIL import ExifTags, Image, ImageFile, TiffImagePlugin

from contract.errors import InvalidImage
from contract.formats.guard import Directory
from contract.formats.rebind import UNCHECKED, UPRIGHT, with_globals

UNSUPPORTED_SAMPLES: Final = (
    "its samples are not read; save it as grey, RGB or CMYK with 8 or 16 bits a sample"
)
_BITS: Final = TiffImagePlugin.BITSPERSAMPLE
_EXTRA: Final = TiffImagePlugin.EXTRASAMPLES
_ALPHA_MODES: Final = {1: "La", 2: "LA"}  # by ExtraSamples: premultiplied, or not
_FULL_12: Final = "levels of 12 bits"
_JPEG: Final = {"jpeg", "tiff_jpeg"}
_MAX_SCANS_PER_STRIP: Final = 20  # per strip, on average; a progressive JPEG has about ten
_MAX_SCANS: Final = 200_000  # each takes at least a microsecond
_OFFSETS: Final = (TiffImagePlugin.STRIPOFFSETS, TiffImagePlugin.TILEOFFSETS)
# Tags from the size to the predictor, of tiles, extra samples, the sample format, and subsampling.
_LAYOUT: Final = frozenset(
    {*range(256, 260), 262, 266, 273, *range(277, 280), 284, 317, *range(322, 326)}
) | {*(338, 339, 530)}
_COUNTS: Final = (TiffImagePlugin.STRIPBYTECOUNTS, TiffImagePlugin.TILEBYTECOUNTS)


def _open_info() -> dict[Any, tuple[str, str]]:
    """Return Pillow's table of layouts, plus those it lacks, minus those it reads wrongly."""
    layouts: dict[Any, tuple[str, str]] = dict(TiffImagePlugin.OPEN_INFO)
    for order in (b"II", b"MM"):
        del layouts[order, 1, (2,), 1, (8,), ()]  # signed: no tag says which level is white
        layouts[order, 1, (2,), 1, (16,), ()] = "I", "I;16NS"
        layouts[order, 1, (2,), 1, (32,), ()] = "I", "I;32NS"
        layouts[order, 1, (1,), 1, (32,), ()] = "I", "I;32N"
        for photometric in (0, 1):
            layouts[order, photometric, (1,), 1, (12,), ()] = "I;16", "I;12"
            layouts[order, photometric, (1,), 1, (16,), ()] = "I;16", "I;16"
        layouts[order, 1, (1,), 1, (8, 8), ()] = "LA", "LA"  # Pillow takes the fourth sample of RGB so too
        for extra in (
            (),
            (0,),
            (1,),
            (2,),
        ):  # the four bytes of grey and alpha, for `restore_samples` to sort
            layouts[order, 1, (1,), 1, (16, 16), extra] = "RGBA", "RGBA"
    for (order, photometric, kind, _fill, *rest), modes in list(layouts.items()):
        layouts.setdefault((order, photometric, kind, 2, *rest), modes)
    return layouts


class TiffFile(TiffImagePlugin.TiffImageFile):
    """Read a TIFF through libtiff, in the layouts of `_open_info`, upright by its Orientation tag alone.

    Pillow's own reader of uncompressed pixels takes planes of 16 bits for planes of 8, and subsampled
    colours for full ones, so libtiff reads everything. It returns samples of 16 and 32 bits in the
    machine's byte order, and bits from the highest on.
    """

    _open = with_globals(TiffImagePlugin.TiffImageFile._open, ImageFileDirectory_v2=Directory)
    _setup = with_globals(TiffImagePlugin.TiffImageFile._setup, OPEN_INFO=_open_info(), READ_LIBTIFF=True)
    load_prepare = with_globals(TiffImagePlugin.TiffImageFile.load_prepare, Image=UNCHECKED)

    def load_end(self) -> None:
        method = UPRIGHT.get(self.tag_v2.get(ExifTags.Base.Orientation, 1))
        if method is not None:
            self.im = self.im.transpose(method)
            self._size = self.im.size


def require_known_planes(image: Any) -> None:
    """Raise InvalidImage for separate planes that Pillow would assign to the wrong channels."""
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


def restore_samples(image: Any) -> Any:
    """Return the picture in its real mode, where Pillow could read the samples only under another mode."""
    bits = image.tag_v2.get(_BITS)
    if bits == (12,):
        image.info[_FULL_12] = True
    if bits != (16, 16):
        return image
    grey, alpha = image.getchannel(1), image.getchannel(3)  # the upper byte of each 16-bit sample
    mode = _ALPHA_MODES.get(image.tag_v2.get(_EXTRA, (2,))[0])
    return Image.merge(mode, (grey, alpha)) if mode else grey


def has_12_bits(image: Image.Image) -> bool:
    """Whether the levels of a picture from `restore_samples` reach from 0 to 4095."""
    return _FULL_12 in image.info


def require_plain_tiles(tiles: list[ImageFile._Tile], tags: Any, pixels: int) -> None:
    """Raise ValueError for tiles much larger than the picture.

    Together, strips or tiles may cover it eight times: once for each channel.
    """
    boxes = [tile.extents or (0, 0, 0, 0) for tile in tiles]
    covered = sum((right - left) * (bottom - top) for left, top, right, bottom in boxes)
    if covered > 8 * pixels or _tile_pixels(tags) > 4 * pixels + 4_000_000:
        raise ValueError("its tiles are much larger than the picture")


def require_own_data(data: bytes, tags: Any, coding: str) -> None:
    """Raise ValueError if strips or tiles share bytes, or if those coded as JPEG have many scans."""
    _require_same_tags(data, tags)
    counts = [count for tag in _COUNTS for count in _numbers(tags.get(tag, ()))]
    if (
        sum(counts) > len(data) and coding != "raw"
    ):  # raw pixels are only copied, no more than the picture has
        raise ValueError(f"its strips or tiles have {sum(counts)} bytes in all, and the file {len(data)}")
    if coding in _JPEG:
        offsets = [offset for tag in _OFFSETS for offset in _numbers(tags.get(tag, ()))]
        _require_few_scans(data, [(start, start + n) for start, n in zip(offsets, counts, strict=False)])


def _require_same_tags(data: bytes, tags: Any) -> None:
    """Raise ValueError where libtiff may see another layout than Pillow has in `tags`.

    Of a tag that occurs twice, they use different ones; and Pillow skips tags of an unknown type or size.
    """
    order = "<" if data[:2] == b"II" else ">"
    is_big = data[2] + data[3] == 43  # BigTIFF, whose offsets have 64 bits
    (at,) = struct.unpack_from(order + "Q", data, 8) if is_big else struct.unpack_from(order + "I", data, 4)
    (count,) = struct.unpack_from(order + ("Q" if is_big else "H"), data, at)
    first, size = (at + 8, 20) if is_big else (at + 2, 12)
    if count > (len(data) - first) // size:
        raise ValueError(f"it claims {count} tags")
    tag_numbers = [struct.unpack_from(order + "H", data, first + size * n)[0] for n in range(count)]
    if len(set(tag_numbers)) < count:
        raise ValueError("a tag occurs twice")
    for tag in _LAYOUT.intersection(tag_numbers):
        if tag not in tags:
            raise ValueError(f"its tag {tag} is of a type or size that is not read")


def _numbers(value: Any) -> Sequence[int]:
    numbers = (value,) if isinstance(value, int) else value
    if not all(isinstance(number, int) and number >= 0 for number in numbers):
        raise ValueError("the places of its strips or tiles are no numbers")
    return numbers


def _require_few_scans(data: bytes, strips: list[tuple[int, int]]) -> None:
    scans = sum(data.count(b"\xff\xda", start, end) for start, end in strips)
    if scans > min(_MAX_SCANS_PER_STRIP * len(strips), _MAX_SCANS):
        raise ValueError(f"{scans} scans are too many for {len(strips)} strips or tiles")
    if any(data.find(bytes([0xFF, kind]), *strip) >= 0 for strip in strips for kind in (0xC9, 0xCA)):
        raise ValueError("its arithmetic coding is not read; save it as a baseline JPEG")


def decoded_bytes(tags: Any, width: int, height: int, coding: str) -> int:
    """Estimate the memory for the picture and for the strip that libtiff unpacks, in bytes.

    Where decoding time is the scarcer resource, the estimate is that time at 300 million bytes a second.
    """
    depth = max(tags.get(TiffImagePlugin.BITSPERSAMPLE, (1,)))
    bits = int(depth * tags.get(TiffImagePlugin.SAMPLESPERPIXEL, 1))
    rows = tags.get(TiffImagePlugin.ROWSPERSTRIP, height)
    strip = _tile_pixels(tags) or width * (min(rows, height) if isinstance(rows, int) else height)
    # LZMA takes 26 ns per byte, the other codings at most 4.
    time_cost = bits if coding == "lzma" else bits // 4
    # `restore_samples` copies grey with 16-bit alpha once more.
    memory_cost = 12 if tags.get(TiffImagePlugin.BITSPERSAMPLE) == (16, 16) else 8
    return max(memory_cost, time_cost) * width * height + strip * bits // 8


def _tile_pixels(tags: Any) -> int:
    """Return the pixels of one tile; 0 for strips."""
    width, height = tags.get(TiffImagePlugin.TILEWIDTH), tags.get(TiffImagePlugin.TILELENGTH)
    return width * height if isinstance(width, int) and isinstance(height, int) else 0
