"""What decoding an AVIF or HEIC takes, by its boxes (ISO/IEC 14496-12 and 23008-12) and its codestreams.

The size that the boxes tell is only how large the picture is shown: the decoder allocates what the
codestream says, for each frame in it and for each cell of a grid.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

from contract.formats.codestream import Bytes, av1_pixels, hevc_pixels

_MOST_BOXES: Final = 20_000
_MOST_ITEMS: Final = 1_000  # a telephone's photograph of 48 million pixels has 192 cells, and some 100 more
_MOST_CELLS: Final = 500
_MOST_UNITS: Final = 20_000  # OBUs and NAL units; a cell has a few, a large picture some hundred slices
_MOST_SAMPLES: Final = 100_000  # of an animation
_MOST_SHARED: Final = 1_000_000  # bytes that cells may have in common
# Derived from others in ways that no camera writes, wherever they are. What is left is the grid.
_DERIVED: Final = {b"iovl", b"iden", b"sato"}
_LAYERS: Final = {b"a1op", b"lsel"}  # they make libavif open a decoder for each cell
_HEVC: Final = {b"hvc1", b"hev1"}

Span = tuple[int, int]


class _Reader:
    """Big-endian numbers of a span. Raises ValueError beyond its end."""

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
    """Of a meta box, by their numbers."""

    primary: int = 0
    kinds: dict[int, bytes] = field(default_factory=dict)
    places: dict[int, list[Span]] = field(default_factory=dict)
    properties: list[tuple[bytes, Span]] = field(default_factory=list)
    has: dict[int, list[int]] = field(default_factory=dict)  # places in `properties`, from 1
    parts: dict[int, list[int]] = field(default_factory=dict)  # of what they are made (dimg)
    beside: dict[int, list[int]] = field(default_factory=dict)  # alpha, a gain map (auxl, the other way)


def coded_pixels(data: bytes) -> int:
    """Count the pixels that decoding passes over: of all frames, cells and planes of alpha.

    Raises ValueError for a layout that no photograph has and that would cost more than its pixels.
    """
    return _File(data).coded_pixels()


class _File:
    def __init__(self, data: bytes) -> None:
        self._data = memoryview(data)
        self._boxes = self._cells = self._read = 0
        self._units = _MOST_UNITS

    def coded_pixels(self) -> int:
        total, found = 0, False
        try:
            for kind, span in self._inside((0, len(self._data))):
                if kind == b"meta":
                    total, found = total + self._of_items(span), True
                elif kind == b"moov":
                    total, found = total + self._of_tracks(span), True
                elif kind == b"mini":
                    raise ValueError("a minimized header is not read; save it with a full one")
        except _Misfit:
            if not found:  # behind the header there may be anything
                raise
        return total

    def _inside(self, span: Span) -> Iterator[tuple[bytes, Span]]:
        """-> the boxes: kind, and from where to where their content lies."""
        at, end = span
        while at + 8 <= end:
            self._boxes += 1
            if self._boxes > _MOST_BOXES:
                raise ValueError(f"more than {_MOST_BOXES} boxes")
            size, kind = int.from_bytes(self._data[at : at + 4], "big"), bytes(self._data[at + 4 : at + 8])
            start = at + 8
            if size == 1:
                size, start = int.from_bytes(self._data[at + 8 : at + 16], "big"), at + 16
            stop = end if size == 0 else at + size
            if stop < start or stop > end:
                raise _Misfit(f"a box of {size} bytes does not fit")
            yield kind, (start, stop)
            at = stop

    def _reader(self, span: Span) -> tuple[int, int, _Reader]:
        """-> version, flags, and what is behind them."""
        reader = _Reader(self._data, span)
        return reader.number(1), reader.number(3), reader

    # --- items

    def _of_items(self, meta: Span) -> int:
        items = self._items(meta)
        roots = [items.primary, *items.beside.get(items.primary, [])]
        if {b"grid", b"av01"} <= {items.kinds.get(root, b"") for root in roots}:
            # libavif opens a decoder for each cell then.
            raise ValueError("a grid beside a picture in one piece; save both in one piece")
        for cell in items.parts.get(items.primary, []):
            roots += items.beside.get(cell, [])
        total = sum(self._of_item(items, root) for root in roots)
        if self._read > len(self._data) + _MOST_SHARED:
            raise ValueError("its cells share their data")
        return total

    def _of_item(self, items: _Items, item: int, within: bytes = b"") -> int:
        kind = items.kinds.get(item, b"")
        if kind == b"av01" or kind in _HEVC:
            self._cells += 1
            if self._cells > _MOST_CELLS:
                raise ValueError(f"a grid of more than {_MOST_CELLS} cells")
            return self._of_codestream(items, item, kind)
        if not kind:
            return 0  # no such item, which the decoder says too
        if kind != b"grid":
            raise ValueError(f"an item of the kind {kind.decode('latin-1')!r} is not read")
        if within:
            raise ValueError("a grid within a grid")
        return sum(self._of_item(items, part, within=kind) for part in items.parts.get(item, []))

    def _of_codestream(self, items: _Items, item: int, kind: bytes) -> int:
        places = items.places.get(item, [])
        self._read += sum(end - start for start, end in places)
        pieces = [self._data[start:end] for start, end in places]
        stream = pieces[0] if len(pieces) == 1 else b"".join(pieces)
        if kind == b"av01":
            return self._of_av1(stream)
        sets = [items.properties[n - 1] for n in items.has.get(item, []) if 0 < n <= len(items.properties)]
        for name, (start, end) in sets:
            if name == b"hvcC":
                pixels, units = hevc_pixels(stream, self._data[start:end], self._units)
                self._units -= units
                return pixels
        return 0

    def _of_av1(self, stream: Bytes) -> int:
        pixels, units = av1_pixels(stream, self._units)
        self._units -= units
        return pixels

    def _items(self, meta: Span) -> _Items:
        items, boxes = _Items(), dict[bytes, Span]()
        for kind, span in self._inside((meta[0] + 4, meta[1])):
            if boxes.setdefault(kind, span) != span and kind in _READ:
                raise ValueError(f"two boxes {kind.decode()!r}")
        for kind, read in _READ.items():
            if kind in boxes:
                read(self, items, boxes[kind], boxes.get(b"idat", (0, 0)))
        return items

    def _primary(self, items: _Items, span: Span, _idat: Span) -> None:
        version, _flags, reader = self._reader(span)
        items.primary = reader.number(4 if version else 2)

    def _kinds(self, items: _Items, span: Span, _idat: Span) -> None:
        version, _flags, _reader = self._reader(span)
        for _kind, entry in self._inside((span[0] + (8 if version else 6), span[1])):
            version, _flags, reader = self._reader(entry)
            if version < 2:
                continue  # has no kind
            item = reader.number(4 if version == 3 else 2)
            reader.number(2)
            kind = reader.bytes(4)
            if kind in _DERIVED:
                raise ValueError(
                    f"an item of the kind {kind.decode()!r} is not read; save it as one picture"
                )
            if items.kinds.setdefault(item, kind) != kind or len(items.kinds) > _MOST_ITEMS:
                raise ValueError(f"more than {_MOST_ITEMS} items, or two of one number")

    def _places(self, items: _Items, span: Span, idat: Span) -> None:
        version, _flags, reader = self._reader(span)
        sizes = reader.number(2)
        offset, length, base, index = (sizes >> shift & 15 for shift in (12, 8, 4, 0))
        for _ in range(reader.number(4 if version == 2 else 2)):
            item = reader.number(4 if version == 2 else 2)
            method = reader.number(2) & 15 if version else 0
            reader.number(2)
            start = reader.number(base) + (idat[0] if method == 1 else 0)
            end = idat[1] if method == 1 else len(self._data)
            if method > 1 or item in items.places:
                raise ValueError(f"item {item} is built of items, or has two places")
            spans = items.places.setdefault(item, [])
            for _ in range(reader.number(2)):
                reader.number(index if version else 0)
                first = start + reader.number(offset)
                spans.append((min(first, end), min(first + (reader.number(length) or end), end)))

    def _references(self, items: _Items, span: Span, _idat: Span) -> None:
        version, _flags, _reader = self._reader(span)
        size = 4 if version else 2
        for kind, inside in self._inside((span[0] + 4, span[1])):
            reader = _Reader(self._data, inside)
            source = reader.number(size)
            targets = [reader.number(size) for _ in range(reader.number(2))]
            if kind == b"dimg":
                items.parts.setdefault(source, []).extend(targets)
            elif kind == b"auxl":
                for target in targets:
                    items.beside.setdefault(target, []).append(source)

    def _properties(self, items: _Items, span: Span, _idat: Span) -> None:
        for kind, inside in self._inside(span):
            if kind == b"ipco":
                items.properties += self._inside(inside)
            elif kind == b"ipma":
                self._associations(items, inside)
        if any(kind in _LAYERS for kind, _ in items.properties):
            raise ValueError("a layer of it is selected; save it with one layer")

    def _associations(self, items: _Items, span: Span) -> None:
        version, flags, reader = self._reader(span)
        for _ in range(reader.number(4)):
            has = items.has.setdefault(reader.number(4 if version else 2), [])
            for _ in range(reader.number(1)):
                has.append(reader.number(2) & 0x7FFF if flags & 1 else reader.number(1) & 0x7F)

    # --- animations

    def _of_tracks(self, moov: Span) -> int:
        """Their first frames, which are all that is decoded."""
        return sum(self._of_track(inside) for kind, inside in self._inside(moov) if kind == b"trak")

    def _of_track(self, span: Span) -> int:
        for step in (b"mdia", b"minf", b"stbl"):
            span = next((inside for kind, inside in self._inside(span) if kind == step), (0, 0))
        tables = dict(self._inside(span))
        if not {b"stsz", b"stsd"} <= tables.keys() or not tables.keys() & {b"stco", b"co64"}:
            return 0
        sizes = self._reader(tables[b"stsz"])[2]
        size, count = sizes.number(4), sizes.number(4)
        if count > _MOST_SAMPLES:
            raise ValueError(f"an animation of {count} frames; at most {_MOST_SAMPLES} are read")
        if not count:
            return 0
        size = size or sizes.number(4)
        offsets = self._reader(tables.get(b"stco") or tables[b"co64"])[2]
        if not offsets.number(4):
            return 0
        first = offsets.number(4 if b"stco" in tables else 8)
        stream = self._data[first : first + size]
        return self._of_av1(stream) if bytes(self._data[slice(*tables[b"stsd"])])[12:16] == b"av01" else 0


class _Misfit(ValueError):
    pass


_READ: Final = {
    b"pitm": _File._primary,
    b"iinf": _File._kinds,
    b"iloc": _File._places,
    b"iref": _File._references,
    b"iprp": _File._properties,
}
