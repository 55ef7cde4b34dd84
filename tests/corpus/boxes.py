"""Make AVIF and HEIC files that cost more than their size: grids, layers, frames, wrong sizes."""

import struct
from collections.abc import Callable, Iterator, Sequence
from functools import cache, partial

import pillow_heif
from PIL import Image

from tests.corpus.case import PIXELS, Case
from tests.support.drawing.pictures import encode
from tests.support.drawing.samples import SCENE, samples


def cases() -> Iterator[Case]:
    for name, (make, expected) in _AVIF.items():
        yield Case(f"boxes-avif-{name}", make, name.endswith("larger-than-it-says"), expected)
    for name, (make, expected) in _HEIC.items():
        yield Case(f"boxes-heic-{name}", make, True, expected)


def box(kind: bytes, *content: bytes) -> bytes:
    body = b"".join(content)
    return struct.pack(">I4s", 8 + len(body), kind) + body


def _full(kind: bytes, version: int, flags: int, *content: bytes) -> bytes:
    return box(kind, struct.pack(">I", version << 24 | flags), *content)


@cache
def _cell(side: int = 64) -> bytes:
    """Return an AV1 codestream of one colour."""
    data = encode(Image.new("RGB", (side, side), (9, 200, 1)), "AVIF", speed=10)
    return data[data.index(b"mdat") + 4 :]


Item = tuple[bytes, bytes, Sequence[int], Sequence[int]]  # kind, data, properties from 1, parts


def _avif(
    items: Sequence[Item],
    properties: Sequence[bytes],
    auxiliary: Sequence[tuple[int, int]] = (),
    *more: bytes,
    shared: bool = False,
) -> bytes:
    """Write an AVIF with `items`, numbered from 1; the first is the picture.

    With `shared`, items with equal data share one copy.
    """
    entries = [
        _full(b"infe", 2, 0, struct.pack(">HH", n, 0), kind, b"\0") for n, (kind, *_) in enumerate(items, 1)
    ]
    references = [
        box(b"dimg", struct.pack(f">HH{len(parts)}H", n, len(parts), *parts))
        for n, (*_, parts) in enumerate(items, 1)
        if parts
    ]
    references += [box(b"auxl", struct.pack(">HHH", source, 1, target)) for source, target in auxiliary]
    associations = b"".join(
        struct.pack(">HB", n, len(property_indices)) + bytes(property_indices)
        for n, (_kind, _data, property_indices, _parts) in enumerate(items, 1)
    )
    offset_of, content = dict[bytes, int](), b""
    offsets = []
    for _kind, data, *_ in items:
        if not shared or data not in offset_of:
            offset_of[data] = len(content)
            content += data
        offsets.append(offset_of[data])

    def meta(start: int) -> bytes:
        iloc = b"".join(
            struct.pack(">HHHII", n, 0, 1, start + offset, len(data))
            for n, (offset, (_kind, data, *_)) in enumerate(zip(offsets, items, strict=True), 1)
        )
        return _full(
            b"meta",
            0,
            0,
            _full(b"hdlr", 0, 0, bytes(4) + b"pict" + bytes(13)),
            _full(b"pitm", 0, 0, struct.pack(">H", 1)),
            _full(b"iloc", 0, 0, b"\x44\0" + struct.pack(">H", len(items)), iloc),
            _full(b"iinf", 0, 0, struct.pack(">H", len(items)), *entries),
            *([_full(b"iref", 0, 0, *references)] if references else []),
            box(
                b"iprp",
                box(b"ipco", *properties),
                _full(b"ipma", 0, 0, struct.pack(">I", len(items)), associations),
            ),
        )

    head = box(b"ftyp", b"avif" + bytes(4) + b"avifmif1miafMA1B")
    start = len(head) + len(meta(0)) + 8
    return head + meta(start) + box(b"mdat", content) + b"".join(more)


def _properties(side: int, width: int, height: int) -> list[bytes]:
    """Return properties 1 cell size, 2 picture size, 3 depth, 4 codec, 5 colours, 6 alpha mark."""
    return [
        _full(b"ispe", 0, 0, struct.pack(">II", side, side)),
        _full(b"ispe", 0, 0, struct.pack(">II", width, height)),
        _full(b"pixi", 0, 0, bytes([3, 8, 8, 8])),
        box(b"av1C", bytes.fromhex("81000c00")),
        box(b"colr", bytes.fromhex("6e636c780001000d000680")),
        _full(b"auxC", 0, 0, b"urn:mpeg:mpegB:cicp:systems:auxiliary:alpha\0"),
    ]


def _grid_item(rows: int, columns: int, width: int, height: int, first: int) -> Item:
    layout = bytes([0, 1, rows - 1, columns - 1]) + struct.pack(">II", width, height)
    return b"grid", layout, (2, 3), range(first, first + rows * columns)


def grid(
    rows: int,
    columns: int,
    side: int = 64,
    real: int = 64,
    last: bytes = b"",
    out: int = 0,
    repeat: int = 1,
) -> bytes:
    """Write a grid of cells that are declared `side` pixels wide but coded `real` pixels wide.

    The last cell has the further property `last`. Each cell has its codestream `repeat` times.
    """
    width, height = (out, out) if out else (columns * side, rows * side)
    cells: list[Item] = [(b"av01", _cell(real) * repeat, (1, 3, 0x84, 5), ())] * (rows * columns)
    properties = _properties(side, width, height)
    if last:
        properties.append(last)
        cells[-1] = (*cells[-1][:2], (1, 3, 0x84, 5, 0x80 | len(properties)), ())
    return _avif([_grid_item(rows, columns, width, height, 2), *cells], properties, shared=True)


def _alpha_in_one_piece() -> bytes:
    cells: list[Item] = [(b"av01", _cell(), (1, 3, 0x84, 5), ())] * 16
    alpha: Item = (b"av01", _cell(256), (2, 3, 0x84, 6), ())
    return _avif([_grid_item(4, 4, 256, 256, 2), *cells, alpha], _properties(64, 256, 256), [(18, 1)])


def _nested() -> bytes:
    cell: Item = (b"av01", _cell(), (1, 3, 0x84, 5), ())
    return _avif([_grid_item(1, 1, 64, 64, 2), _grid_item(1, 1, 64, 64, 3), cell], _properties(64, 64, 64))


def _around_itself() -> bytes:
    return _avif([_grid_item(1, 1, 64, 64, 1)], _properties(64, 64, 64))


def _single(side: int, declared: int, repeat: int = 1, *more: bytes) -> bytes:
    item: Item = (b"av01", _cell(side) * repeat, (1, 3, 0x84, 5), ())
    return _avif([item], _properties(declared, declared, declared), (), *more)


def _of_kind(kind: bytes) -> bytes:
    return _avif(
        [(kind, bytes(12), (2, 3), (2,)), (b"av01", _cell(), (1, 3, 0x84, 5), ())], _properties(64, 64, 64)
    )


def _many_units() -> bytes:
    padding = bytes([15 << 3 | 2, 0])  # OBUs of no bytes
    item: Item = (b"av01", padding * 100_000 + _cell(), (1, 3, 0x84, 5), ())
    return _avif([item], _properties(64, 64, 64))


def _sequence(frames: int) -> bytes:
    """Make an animation of two frames whose table claims `frames`, all as large as the first."""
    data = encode(SCENE, "AVIF", speed=10, save_all=True, append_images=[SCENE.rotate(90)])
    at = data.index(b"stsz") + 8
    return data[:at] + struct.pack(">II", 100, frames) + data[at + 8 :]


_LAYER_SELECTOR = b"\0\0\0\x09a1op\1"
_AVIF: dict[str, tuple[Callable[[], bytes], str | None]] = {
    "grid": (partial(grid, 4, 5), PIXELS),
    "grid-484": (partial(grid, 22, 22), PIXELS),
    "grid-625": (partial(grid, 25, 25), "more than 500 cells"),
    "grid-6084": (partial(grid, 78, 78), "more than 1000 items"),
    "grid-a1op": (partial(grid, 4, 5, last=_LAYER_SELECTOR), "a layer of it is selected"),
    "grid-lsel": (partial(grid, 4, 5, last=box(b"lsel", b"\0\0")), "a layer of it is selected"),
    "grid-of-larger-cells": (partial(grid, 20, 20, real=1024), "because of the memory"),
    "grid-cut-out": (partial(grid, 20, 20, side=1024, real=1024, out=64), "because of the memory"),
    "grid-of-frames": (partial(grid, 4, 4, repeat=1100), "too many units"),
    "grid-alpha-in-one-piece": (_alpha_in_one_piece, "a grid beside a picture in one piece"),
    "grid-in-grid": (_nested, "a grid within a grid"),
    "grid-of-itself": (_around_itself, "a grid within a grid"),
    "overlay": (partial(_of_kind, b"iovl"), "'iovl'"),
    "identity": (partial(_of_kind, b"iden"), "'iden'"),
    "sample-transform": (partial(_of_kind, b"sato"), "'sato'"),
    "unknown-kind": (partial(_of_kind, b"unci"), "'unci'"),
    "larger-than-it-says": (partial(_single, 4096, 64), PIXELS),
    "much-larger-than-it-says": (partial(_single, 4096, 64, 8), "because of the memory"),
    "frames": (partial(_single, 1024, 1024, 100), "because of the memory"),
    "units": (_many_units, "too many units"),
    "behind": (partial(_single, 64, 64, 1, b"anything at all"), PIXELS),
    "boxes": (partial(_single, 64, 64, 1, box(b"free") * 30_000), "more than 20000 boxes"),
    "minimized": (partial(_single, 64, 64, 1, box(b"mini")), "minimized"),
    "sequence-of-millions": (partial(_sequence, 2_500_000), "an animation of 2500000 frames"),
}


def _heic(width: int, height: int, tile: int = 0) -> bytes:
    samples()  # registers HEIF
    before, pillow_heif.options.GRID_TILE_SIZE = pillow_heif.options.GRID_TILE_SIZE, tile
    try:
        return encode(Image.new("RGB", (width, height), (9, 200, 1)), "HEIF", quality=10)
    finally:
        pillow_heif.options.GRID_TILE_SIZE = before


def _declaring(data: bytes, width: int, height: int) -> bytes:
    """Replace the size in every ispe box."""
    pieces = data.split(b"ispe\0\0\0\0")
    size = b"ispe\0\0\0\0" + struct.pack(">II", width, height)
    return pieces[0] + b"".join(size + piece[8:] for piece in pieces[1:])


def _with_pictures(data: bytes, times: int) -> bytes:
    """Repeat the codestream `times` times as the data of the only item."""
    at = data.index(b"mdat") + 4
    where = data.index(struct.pack(">I", len(data) - at), data.index(b"iloc"))
    stream = data[at:] * times
    head = data[:where] + struct.pack(">I", len(stream)) + data[where + 4 : at - 8]
    return head + box(b"mdat", stream)


_HEIC: dict[str, tuple[Callable[[], bytes], str | None]] = {
    "grid": (partial(_heic, 1300, 900, 256), PIXELS),
    "grid-575": (partial(_heic, 64 * 25, 64 * 23, 64), "more than 500 cells"),
    "larger-than-it-says": (lambda: _declaring(_heic(1000, 1000), 64, 64), None),
    "pictures": (lambda: _with_pictures(_heic(1024, 1024), 100), "because of the memory"),
}
