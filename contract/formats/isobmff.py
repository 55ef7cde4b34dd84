"""Count the pixels that decoding an AVIF or HEIC takes, from its boxes and codestreams.

The boxes (ISO/IEC 14496-12 and 23008-12) give only the size at which the picture is shown. The decoder
allocates the size in the codestream, for each frame in it and for each cell of a grid.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

from contract.formats.codestream import Bytes, av1_pixels, hevc_pixels

_MAX_BOXES: Final = 20_000
_MAX_ITEMS: Final = 1_000  # a phone's photograph of 48 million pixels has about 300, 192 of them cells
_MAX_CELLS: Final = 500
_MAX_UNITS: Final = 20_000  # OBUs and NAL units; a cell has a few, a large picture some hundred slices
_MAX_SAMPLES: Final = 100_000  # frames of an animation
_MAX_SHARED_BYTES: Final = 1_000_000  # bytes that cells may have in common
# Items derived from others in ways that no camera writes. The remaining way, the grid, is read.
_DERIVED: Final = {b"iovl", b"iden", b"sato"}
_LAYERS: Final = {b"a1op", b"lsel"}  # properties that make libavif open a decoder for each cell
_HEVC: Final = {b"hvc1", b"hev1"}

Span = tuple[int, int]


class _Reader:
    """Read big-endian numbers from a span. Raises ValueError beyond its end."""

    def __init__(self, data: Bytes, span: Span) -> None:
        self._data, (self._at, self._end) = data, span

    def number(self, size: int) -> int:
        return int.from_bytes(self.bytes(size), "big")

    def bytes(self, size: int) -> bytes:
        self._at += size
        if self._at > self._end:
            raise ValueError("a box ends too early")
        return bytes(self._data[self._at - size : self._at])


@dataclass
class _Items:
    """The items of a meta box, by item number."""

    primary: int = 0
    kinds: dict[int, bytes] = field(default_factory=dict)
    locations: dict[int, list[Span]] = field(default_factory=dict)
    properties: list[tuple[bytes, Span]] = field(default_factory=list)
    associations: dict[int, list[int]] = field(default_factory=dict)  # indices into `properties`, from 1
    parts: dict[int, list[int]] = field(default_factory=dict)  # the items that an item is made of (dimg)
    auxiliary: dict[int, list[int]] = field(default_factory=dict)  # alpha, a gain map (auxl reversed)


def coded_pixels(data: bytes) -> int:
    """Return the pixels of all frames, cells and alpha planes that are decoded.

    Raises ValueError for a broken file, and for layouts that no photograph has and that would cost more
    than their pixels.
    """
    return _File(data).coded_pixels()


class _File:
    def __init__(self, data: bytes) -> None:
        self._data = memoryview(data)
        self._boxes = self._cells = self._bytes_read = 0
        self._units_left = _MAX_UNITS

    def coded_pixels(self) -> int:
        total, has_picture = 0, False
        try:
            for kind, span in self._boxes_in((0, len(self._data))):
                if kind == b"meta":
                    total, has_picture = total + self._count_items(span), True
                elif kind == b"moov":
                    total, has_picture = total + self._count_tracks(span), True
                elif kind == b"mini":
                    raise ValueError("a minimized header is not read; save it with a full one")
        except _BoxTooLong:
            if not has_picture:  # after the header, other data may follow
                raise
        return total

    def _boxes_in(self, span: Span) -> Iterator[tuple[bytes, Span]]:
        """Yield the kind and the content span of each box in `span`. Raises ValueError for a broken one."""
        at, end = span
        while at + 8 <= end:
            self._boxes += 1
            if self._boxes > _MAX_BOXES:
                raise ValueError(f"more than {_MAX_BOXES} boxes")
            size, kind = int.from_bytes(self._data[at : at + 4], "big"), bytes(self._data[at + 4 : at + 8])
            start = at + 8
            if size == 1:
                size, start = int.from_bytes(self._data[at + 8 : at + 16], "big"), at + 16
            stop = end if size == 0 else at + size
            if stop < start or stop > end:
                raise _BoxTooLong(f"a box of {size} bytes does not fit")
            yield kind, (start, stop)
            at = stop

    def _reader(self, span: Span) -> tuple[int, int, _Reader]:
        """Return version, flags, and a reader of the bytes after them."""
        reader = _Reader(self._data, span)
        return reader.number(1), reader.number(3), reader

    # --- items

    def _count_items(self, meta: Span) -> int:
        items = self._items(meta)
        roots = [items.primary, *items.auxiliary.get(items.primary, [])]
        if {b"grid", b"av01"} <= {items.kinds.get(root, b"") for root in roots}:
            # libavif would open a decoder for each cell.
            raise ValueError("a grid beside a picture in one piece; save both in one piece")
        for cell in items.parts.get(items.primary, []):
            roots += items.auxiliary.get(cell, [])
        total = sum(self._count_item(items, root) for root in roots)
        if self._bytes_read > len(self._data) + _MAX_SHARED_BYTES:
            raise ValueError("its cells share their data")
        return total

    def _count_item(self, items: _Items, item: int, parent: bytes = b"") -> int:
        kind = items.kinds.get(item, b"")
        if kind == b"av01" or kind in _HEVC:
            self._cells += 1
            if self._cells > _MAX_CELLS:
                raise ValueError(f"a grid of more than {_MAX_CELLS} cells")
            return self._count_codestream(items, item, kind)
        if not kind:
            return 0  # no such item; the decoder reports it
        if kind != b"grid":
            raise ValueError(f"an item of the kind {kind.decode('latin-1')!r} is not read")
        if parent:
            raise ValueError("a grid within a grid")
        return sum(self._count_item(items, part, parent=kind) for part in items.parts.get(item, []))

    def _count_codestream(self, items: _Items, item: int, kind: bytes) -> int:
        locations = items.locations.get(item, [])
        self._bytes_read += sum(end - start for start, end in locations)
        pieces = [self._data[start:end] for start, end in locations]
        stream = pieces[0] if len(pieces) == 1 else b"".join(pieces)
        if kind == b"av01":
            return self._count_av1(stream)
        sets = [
            items.properties[n - 1]
            for n in items.associations.get(item, [])
            if 0 < n <= len(items.properties)
        ]
        for name, (start, end) in sets:
            if name == b"hvcC":
                pixels, units = hevc_pixels(stream, self._data[start:end], self._units_left)
                self._units_left -= units
                return pixels
        return 0

    def _count_av1(self, stream: Bytes) -> int:
        pixels, units = av1_pixels(stream, self._units_left)
        self._units_left -= units
        return pixels

    def _items(self, meta: Span) -> _Items:
        items, boxes = _Items(), dict[bytes, Span]()
        for kind, span in self._boxes_in((meta[0] + 4, meta[1])):
            if boxes.setdefault(kind, span) != span and kind in _BOX_READERS:
                raise ValueError(f"two boxes {kind.decode()!r}")
        for kind, read in _BOX_READERS.items():
            if kind in boxes:
                read(self, items, boxes[kind], boxes.get(b"idat", (0, 0)))
        return items

    def _primary(self, items: _Items, span: Span, _idat: Span) -> None:
        version, _flags, reader = self._reader(span)
        items.primary = reader.number(4 if version else 2)

    def _kinds(self, items: _Items, span: Span, _idat: Span) -> None:
        version, _flags, _reader = self._reader(span)
        for _kind, entry in self._boxes_in((span[0] + (8 if version else 6), span[1])):
            version, _flags, reader = self._reader(entry)
            if version < 2:
                continue  # such entries have no kind
            item = reader.number(4 if version == 3 else 2)
            reader.number(2)
            kind = reader.bytes(4)
            if kind in _DERIVED:
                raise ValueError(
                    f"an item of the kind {kind.decode()!r} is not read; save it as one picture"
                )
            if items.kinds.setdefault(item, kind) != kind or len(items.kinds) > _MAX_ITEMS:
                raise ValueError(f"more than {_MAX_ITEMS} items, or two of one number")

    def _locations(self, items: _Items, span: Span, idat: Span) -> None:
        version, _flags, reader = self._reader(span)
        sizes = reader.number(2)
        offset, length, base, index = (sizes >> shift & 15 for shift in (12, 8, 4, 0))
        for _ in range(reader.number(4 if version == 2 else 2)):
            item = reader.number(4 if version == 2 else 2)
            method = reader.number(2) & 15 if version else 0
            reader.number(2)
            start = reader.number(base) + (idat[0] if method == 1 else 0)
            end = idat[1] if method == 1 else len(self._data)
            if method > 1 or item in items.locations:
                raise ValueError(f"item {item} is built of items, or has two locations")
            spans = items.locations.setdefault(item, [])
            for _ in range(reader.number(2)):
                reader.number(index if version else 0)
                first = start + reader.number(offset)
                spans.append((min(first, end), min(first + (reader.number(length) or end), end)))

    def _references(self, items: _Items, span: Span, _idat: Span) -> None:
        version, _flags, _reader = self._reader(span)
        size = 4 if version else 2
        for kind, content in self._boxes_in((span[0] + 4, span[1])):
            reader = _Reader(self._data, content)
            source = reader.number(size)
            targets = [reader.number(size) for _ in range(reader.number(2))]
            if kind == b"dimg":
                items.parts.setdefault(source, []).extend(targets)
            elif kind == b"auxl":
                for target in targets:
                    items.auxiliary.setdefault(target, []).append(source)

    def _properties(self, items: _Items, span: Span, _idat: Span) -> None:
        for kind, content in self._boxes_in(span):
            if kind == b"ipco":
                items.properties += self._boxes_in(content)
            elif kind == b"ipma":
                self._associations(items, content)
        if any(kind in _LAYERS for kind, _ in items.properties):
            raise ValueError("a layer of it is selected; save it with one layer")

    def _associations(self, items: _Items, span: Span) -> None:
        version, flags, reader = self._reader(span)
        for _ in range(reader.number(4)):
            indices = items.associations.setdefault(reader.number(4 if version else 2), [])
            for _ in range(reader.number(1)):
                indices.append(reader.number(2) & 0x7FFF if flags & 1 else reader.number(1) & 0x7F)

    # --- animations

    def _count_tracks(self, moov: Span) -> int:
        """Count the first frame of each track: no other is decoded."""
        return sum(self._count_track(content) for kind, content in self._boxes_in(moov) if kind == b"trak")

    def _count_track(self, span: Span) -> int:
        for step in (b"mdia", b"minf", b"stbl"):
            span = next((content for kind, content in self._boxes_in(span) if kind == step), (0, 0))
        tables = dict(self._boxes_in(span))
        if not {b"stsz", b"stsd"} <= tables.keys() or not tables.keys() & {b"stco", b"co64"}:
            return 0
        sizes = self._reader(tables[b"stsz"])[2]
        size, count = sizes.number(4), sizes.number(4)
        if count > _MAX_SAMPLES:
            raise ValueError(f"an animation of {count} frames; at most {_MAX_SAMPLES} are read")
        if not count:
            return 0
        size = size or sizes.number(4)
        offsets = self._reader(tables.get(b"stco") or tables[b"co64"])[2]
        if not offsets.number(4):
            return 0
        first = offsets.number(4 if b"stco" in tables else 8)
        stream = self._data[first : first + size]
        return (
            self._count_av1(stream) if bytes(self._data[slice(*tables[b"stsd"])])[12:16] == b"av01" else 0
        )


class _BoxTooLong(ValueError):
    """A box is longer than what contains it."""


_BOX_READERS: Final = {
    b"pitm": _File._primary,
    b"iinf": _File._kinds,
    b"iloc": _File._locations,
    b"iref": _File._references,
    b"iprp": _File._properties,
}
