"""How much memory a lossless WebP asks for beyond its pixels: its groups of Huffman codes.

A group takes 12 kilobytes in libwebp and 20 bits in the file, and there may be one for every 16 pixels, up
to 65,536. How many there are stands behind the images of the transforms, which have to be decoded to get
there; that is done in Python, and only for files that have the room for many.
"""

from collections.abc import Iterator
from itertools import chain, islice
from typing import Final

_MOST_CHUNKS: Final = 10_000  # before the first picture
_MOST_GROUPS: Final = 10_000  # libwebp writes 2,600 at most
_MOST_SYMBOLS: Final = 400_000  # of the transforms' images; libwebp writes 33,000 at most, formerly 200,000
_ALWAYS_COUNTED: Final = 64_000_000  # bytes; what cannot need more is counted with the most it can need
_LENGTH_ORDER: Final = (17, 18, 0, 1, 2, 3, 4, 5, 16, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15)


def size(data: bytes) -> tuple[int, int]:
    """Read width and height of an extended WebP: Pillow makes the canvas before it tells them.

    (0, 0) for the other kinds, which have 14 bits for each.
    """
    if data[12:16] == b"VP8X":
        return int.from_bytes(data[24:27], "little") + 1, int.from_bytes(data[27:30], "little") + 1
    return 0, 0


def first_frame(data: bytes) -> tuple[int, int, int, int] | None:
    """Read where the first frame of an animation lies on the canvas; None for a still picture."""
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
    """Bound the memory for Huffman codes, in bytes, of the first frame. Raises ValueError."""
    return max((_code_bytes(*stream) for stream in _streams(data)), default=0)


def _chunks(data: bytes, at: int, end: int) -> Iterator[tuple[bytes, int, int]]:
    """-> kind, and from where to where its content lies."""
    for _ in range(_MOST_CHUNKS):
        if at + 8 > end:
            return
        length = int.from_bytes(data[at + 4 : at + 8], "little")
        yield data[at : at + 4], at + 8, min(at + 8 + length, end)
        at += 8 + length + length % 2
    raise ValueError(f"more than {_MOST_CHUNKS} chunks")


def _streams(data: bytes) -> Iterator[tuple[bytes, int, int]]:
    """-> (bits, width, height) of what is coded losslessly in the first frame: its pixels, or its alpha."""
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
    """The alpha may stand before the colours or behind them; the metadata behind both may be long."""
    for kind, start, stop in islice(chunks, 10):
        if kind == b"VP8L" and stop >= start + 5:
            head = int.from_bytes(data[start + 1 : start + 5], "little")
            yield data[start + 5 : stop], (head & 0x3FFF) + 1, (head >> 14 & 0x3FFF) + 1
        if kind == b"ALPH" and data[start : start + 1] and data[start] & 3 == 1:
            yield data[start + 1 : stop], width, height


def _code_bytes(stream: bytes, width: int, height: int) -> int:
    most = min(65_536, _blocks(width, height, 2), len(stream) * 8 // 20 + 1) * _group_bytes(11)
    if most <= _ALWAYS_COUNTED:
        return most
    count, cache = _groups(_Bits(stream), width, height)
    if count > _MOST_GROUPS:
        raise ValueError(f"it has {count} groups of Huffman codes; at most {_MOST_GROUPS} are read")
    return count * _group_bytes(cache)


def _group_bytes(cache: int) -> int:
    """Bound libwebp's HTreeGroup with the tables of its five codes; `cache`: the colour cache's bits."""
    return 12_500 + (4 << cache)


def _blocks(width: int, height: int, bits: int) -> int:
    return -(-width >> bits) * -(-height >> bits)


class _Bits:
    """Reads from the lowest bit of the first byte on. Raises ValueError at the end."""

    def __init__(self, data: bytes) -> None:
        self._data, self._at, self._held, self._count = data, 0, 0, 0

    def peek(self) -> int:
        """At least 64 bits, zeros behind the end."""
        if self._count < 64:
            if self._at > len(self._data) + 8:
                raise ValueError("it ends too early")
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
    """A prefix code. A `table` of one entry stands for a code of one symbol, which takes no bits."""

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
    """-> (how many groups of codes the picture has, the bits of its colour cache)."""
    symbols = _MOST_SYMBOLS
    seen = set[int]()
    while bits.read(1):
        kind = bits.read(2)
        if kind in seen:
            raise ValueError("a transform occurs twice")
        seen.add(kind)
        if kind in {0, 1}:  # predictor, colour
            symbols = _pass_image(bits, _blocks(width, height, bits.read(3) + 2), symbols)[0]
        if kind == 3:  # palette
            colours = bits.read(8) + 1
            symbols = _pass_image(bits, colours, symbols)[0]
            width = -(-width >> (colours <= 16) + (colours <= 4) + (colours <= 2))
    cache = bits.read(4) if bits.read(1) else 0
    if not bits.read(1):
        return 1, cache
    entries = _blocks(width, height, bits.read(3) + 2)
    return min(entries, _pass_image(bits, entries, symbols)[1] + 1), cache


def _pass_image(bits: _Bits, pixels: int, symbols: int) -> tuple[int, int]:
    """Read an image of one group. -> (what is left of `symbols`, the largest red << 8 | green in it).

    What is copied from before, or from the colour cache, is not looked at: it was there already.
    """
    cache = bits.read(4) if bits.read(1) else 0
    green = _read_code(bits, 280 + (1 << cache if cache else 0))
    red, blue, alpha = (_read_code(bits, 256) for _ in range(3))
    distance = _read_code(bits, 40)
    if not green.mask | red.mask | blue.mask | alpha.mask and green.table[0][1] < 256:
        return symbols, red.table[0][1] << 8 | green.table[0][1]
    # Spelled out, because a call for each symbol takes three times as long.
    greens, reds, blues, alphas = green.table, red.table, blue.table, alpha.table
    largest = 0
    while pixels > 0:
        symbols -= 1
        if symbols < 0:
            raise ValueError("its transforms are finer than those of a sound file")
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
        two = bits.read(1)
        lengths[bits.read(8 if bits.read(1) else 1)] = 1
        if two:
            lengths[bits.read(8)] = 1
        return _Code(lengths)
    first = [0] * 19
    for place in _LENGTH_ORDER[: 4 + bits.read(4)]:
        first[place] = bits.read(3)
    code = _Code(first)
    left = 2 + bits.read(2 + 2 * bits.read(3)) if bits.read(1) else alphabet
    at, previous = 0, 8
    while at < alphabet and left > 0:
        left -= 1
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
