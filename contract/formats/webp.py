"""Bound the memory of lossless WebP (Huffman groups), and find an animation's first frame.

A group takes 12 kB in libwebp and 20 bits in the file; there may be one for every 16 pixels, up to 65,536.
Their number comes after the images of the transforms, which must be decoded to reach it. That is done here,
in Python, and only for files large enough to hold many groups. Also reads where the first frame of an
animation lies.
"""

from collections.abc import Iterator
from itertools import chain, islice
from typing import Final

from PIL import WebPImagePlugin

from contract.formats.rebind import UNCHECKED, with_globals

_MAX_CHUNKS: Final = 10_000  # before the first frame
_MAX_GROUPS: Final = 10_000  # libwebp writes 2,600 at most
_MAX_SYMBOLS: Final = 400_000  # in the transforms' images; libwebp writes 33,000, old versions 200,000
_UNPARSED_BYTES: Final = 64_000_000  # bytes; a file that cannot need more is not parsed: its maximum counts
_LENGTH_ORDER: Final = (17, 18, 0, 1, 2, 3, 4, 5, 16, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15)


class WebPFile(WebPImagePlugin.WebPImageFile):
    """Read a WebP of any size."""

    _open = with_globals(WebPImagePlugin.WebPImageFile._open, Image=UNCHECKED)


def size(data: bytes) -> tuple[int, int]:
    """Return width and height of an extended WebP, before Pillow allocates its canvas.

    (0, 0) for the simple formats, whose sides have 14 bits at most.
    """
    if data[12:16] == b"VP8X":
        return int.from_bytes(data[24:27], "little") + 1, int.from_bytes(data[27:30], "little") + 1
    return 0, 0


def first_frame_box(data: bytes) -> tuple[int, int, int, int] | None:
    """Return the box (left, top, right, bottom) of an animation's first frame; None for a still picture."""
    for kind, start, _stop in _chunks(data, 12, len(data)) if data[12:16] == b"VP8X" else ():
        if kind == b"ANMF":
            x, y, width, height = (
                int.from_bytes(data[n : n + 3], "little") for n in range(start, start + 12, 3)
            )
            return 2 * x, 2 * y, 2 * x + width + 1, 2 * y + height + 1
        if kind in {b"VP8 ", b"VP8L"}:
            return None
    return None


def code_bytes(data: bytes) -> int:
    """Return the most memory that the first frame's Huffman codes take, in bytes. Raises ValueError."""
    return max((_code_bytes(*stream) for stream in _streams(data)), default=0)


def _chunks(data: bytes, at: int, end: int) -> Iterator[tuple[bytes, int, int]]:
    """Yield kind, start and end of the content of each chunk."""
    for _ in range(_MAX_CHUNKS):
        if at + 8 > end:
            return
        length = int.from_bytes(data[at + 4 : at + 8], "little")
        yield data[at : at + 4], at + 8, min(at + 8 + length, end)
        at += 8 + length + length % 2
    raise ValueError(f"more than {_MAX_CHUNKS} chunks")


def _streams(data: bytes) -> Iterator[tuple[bytes, int, int]]:
    """Yield (bytes, width, height) of each lossless stream in the first frame: pixels or alpha."""
    width, height = size(data)
    chunks = _chunks(data, 12, len(data))
    for kind, start, stop in chunks:
        if kind == b"ANMF":
            sides = (int.from_bytes(data[at : at + 3], "little") + 1 for at in (start + 6, start + 9))
            yield from _coded(data, _chunks(data, start + 16, stop), *sides)
            return
        if kind in {b"ALPH", b"VP8L", b"VP8 "}:
            yield from _coded(data, chain([(kind, start, stop)], chunks), width, height)
            return


def _coded(
    data: bytes, chunks: Iterator[tuple[bytes, int, int]], width: int, height: int
) -> Iterator[tuple[bytes, int, int]]:
    """Yield the lossless streams among the first ten chunks of a frame.

    Alpha may come before or after the colours; the metadata after both may be long.
    """
    for kind, start, stop in islice(chunks, 10):
        if kind == b"VP8L" and stop >= start + 5:
            head = int.from_bytes(data[start + 1 : start + 5], "little")
            yield data[start + 5 : stop], (head & 0x3FFF) + 1, (head >> 14 & 0x3FFF) + 1
        if kind == b"ALPH" and data[start : start + 1] and data[start] & 3 == 1:
            yield data[start + 1 : stop], width, height


def _code_bytes(stream: bytes, width: int, height: int) -> int:
    max_bytes = min(65_536, _blocks(width, height, 2), len(stream) * 8 // 20 + 1) * _group_bytes(11)
    if max_bytes <= _UNPARSED_BYTES:
        return max_bytes
    count, cache = _groups(_Bits(stream), width, height)
    if count > _MAX_GROUPS:
        raise ValueError(f"it has {count} groups of Huffman codes; at most {_MAX_GROUPS} are read")
    return count * _group_bytes(cache)


def _group_bytes(cache: int) -> int:
    """Return the bytes of libwebp's HTreeGroup and its five tables; `cache`: bits of the colour cache."""
    return 12_500 + (4 << cache)


def _blocks(width: int, height: int, bits: int) -> int:
    return -(-width >> bits) * -(-height >> bits)


class _Bits:
    """Read bits, the lowest bit of a byte first. Raises ValueError beyond the end."""

    def __init__(self, data: bytes) -> None:
        self._data, self._at, self._held, self._count = data, 0, 0, 0

    def peek(self) -> int:
        """Return at least the next 64 bits, with zeros beyond the end."""
        if self._count < 64:
            if self._at > len(self._data) + 8:
                raise ValueError("its data end too early")
            self._held |= int.from_bytes(self._data[self._at : self._at + 16], "little") << self._count
            self._at += 16
            self._count += 128
        return self._held

    def skip(self, count: int) -> None:
        self._held >>= count
        self._count -= count

    def read(self, count: int) -> int:
        value = self.peek() & ((1 << count) - 1)
        self.skip(count)
        return value


class _Code:
    """A prefix code. A `table` of one entry is a code of one symbol, which takes no bits."""

    def __init__(self, lengths: list[int]) -> None:
        used = sorted((length, symbol) for symbol, length in enumerate(lengths) if length)
        if len(used) < 2:
            self.mask, self.table = 0, [(0, used[0][1] if used else 0)]
            return
        longest = used[-1][0]
        if sum(1 << longest - length for length, _ in used) != 1 << longest:
            raise ValueError("a Huffman code is not complete")
        self.mask = (1 << longest) - 1
        self.table = [(0, 0)] * (1 << longest)
        code = before = 0
        for length, symbol in used:
            code <<= length - before
            before = length
            reverse = int(f"{code:0{length}b}"[::-1], 2)
            self.table[reverse :: 1 << length] = [(length, symbol)] * (1 << longest - length)
            code += 1

    def next(self, bits: _Bits) -> int:
        length, symbol = self.table[bits.peek() & self.mask]
        bits.skip(length)
        return symbol


def _groups(bits: _Bits, width: int, height: int) -> tuple[int, int]:
    """Return the number of groups of codes, and the bits of the colour cache."""
    symbols = _MAX_SYMBOLS
    kinds = set[int]()
    while bits.read(1):
        kind = bits.read(2)
        if kind in kinds:
            raise ValueError("a transform occurs twice")
        kinds.add(kind)
        if kind in {0, 1}:  # predictor, colour
            symbols = _skip_image(bits, _blocks(width, height, bits.read(3) + 2), symbols)[0]
        if kind == 3:  # palette
            colours = bits.read(8) + 1
            symbols = _skip_image(bits, colours, symbols)[0]
            width = -(-width >> (colours <= 16) + (colours <= 4) + (colours <= 2))
    cache = bits.read(4) if bits.read(1) else 0
    if not bits.read(1):
        return 1, cache
    entries = _blocks(width, height, bits.read(3) + 2)
    return min(entries, _skip_image(bits, entries, symbols)[1] + 1), cache


def _skip_image(bits: _Bits, pixels: int, symbols: int) -> tuple[int, int]:
    """Skip an image with one group of codes.

    Return what is left of the budget `symbols`, and the largest red << 8 | green in the image. Pixels
    copied from earlier ones or from the colour cache are not compared: they were, at their first
    occurrence.
    """
    cache = bits.read(4) if bits.read(1) else 0
    green = _read_code(bits, 280 + (1 << cache if cache else 0))
    red, blue, alpha = (_read_code(bits, 256) for _ in range(3))
    distance = _read_code(bits, 40)
    if not green.mask | red.mask | blue.mask | alpha.mask and green.table[0][1] < 256:
        return symbols, red.table[0][1] << 8 | green.table[0][1]
    # Inlined: a function call per symbol takes three times as long.
    greens, reds, blues, alphas = green.table, red.table, blue.table, alpha.table
    largest = 0
    while pixels > 0:
        symbols -= 1
        if symbols < 0:
            raise ValueError(f"its transforms have more than {_MAX_SYMBOLS} symbols")
        held = bits.peek()
        length, symbol = greens[held & green.mask]
        held >>= length
        if symbol < 256:
            to_red, value = reds[held & red.mask]
            held >>= to_red
            to_blue = blues[held & blue.mask][0]
            held >>= to_blue
            bits.skip(length + to_red + to_blue + alphas[held & alpha.mask][0])
            value = value << 8 | symbol
            if value > largest:
                largest = value
            pixels -= 1
            continue
        bits.skip(length)
        if symbol < 280:
            pixels -= _prefixed(bits, symbol - 256)
            _prefixed(bits, distance.next(bits))
        else:
            pixels -= 1
    return symbols, largest


def _prefixed(bits: _Bits, prefix: int) -> int:
    if prefix < 4:
        return prefix + 1
    extra = (prefix - 2) >> 1
    return ((2 + (prefix & 1)) << extra) + bits.read(extra) + 1


def _read_code(bits: _Bits, alphabet: int) -> _Code:
    lengths = [0] * alphabet
    if bits.read(1):
        has_two_symbols = bits.read(1)
        lengths[bits.read(8 if bits.read(1) else 1)] = 1
        if has_two_symbols:
            lengths[bits.read(8)] = 1
        return _Code(lengths)
    length_lengths = [0] * 19
    for index in _LENGTH_ORDER[: 4 + bits.read(4)]:
        length_lengths[index] = bits.read(3)
    code = _Code(length_lengths)
    codes_left = 2 + bits.read(2 + 2 * bits.read(3)) if bits.read(1) else alphabet
    at, previous = 0, 8
    while at < alphabet and codes_left > 0:
        codes_left -= 1
        length = code.next(bits)
        if length < 16:
            lengths[at] = length
            previous = length or previous
            at += 1
            continue
        repeat = 3 + bits.read((2, 3, 7)[length - 16]) + (8 if length == 18 else 0)
        if at + repeat > alphabet:
            raise ValueError("a Huffman code has too many symbols")
        if length == 16:
            lengths[at : at + repeat] = [previous] * repeat
        at += repeat
    return _Code(lengths)
