"""Make lossless WebPs with too many groups of Huffman codes, in pixels, alpha and frames."""

import struct
from collections.abc import Iterator
from functools import partial

from PIL import Image

from tests.corpus.case import PIXELS, Case
from tests.support.drawing.pictures import encode
from tests.support.drawing.samples import ALPHA, SCENE

_LENGTH_ORDER = (17, 18, 0, 1, 2, 3, 4, 5, 16, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15)
_TOO_MANY = "groups of Huffman codes"


def cases() -> Iterator[Case]:
    for count in (1, 2_000, 9_000):
        yield Case(f"webp-groups-{count}", partial(lossless, count), expected=PIXELS)
    yield Case("webp-groups-20000", partial(lossless, 20_000), expected=_TOO_MANY)
    yield Case("webp-groups-65536", partial(lossless, 65_536), True, _TOO_MANY)
    yield Case("webp-groups-alpha", partial(_in_alpha, 20_000), expected=_TOO_MANY)
    yield Case("webp-groups-alpha-behind", partial(_in_alpha, 20_000, behind=True), expected=_TOO_MANY)
    yield Case("webp-groups-alpha-sound", partial(_in_alpha, 100), expected=PIXELS)
    yield Case("webp-groups-frame", partial(_in_frame, 20_000), expected=_TOO_MANY)
    yield Case("webp-groups-transforms", _fine_transforms, expected="its transforms have more than")
    for method in (0, 3, 6):
        yield Case(f"webp-lossless-{method}", partial(_photograph, method), expected=PIXELS)


def _photograph(method: int) -> bytes:
    image = SCENE.copy()
    image.putalpha(ALPHA)
    return encode(image.resize((900, 700)), "WEBP", lossless=True, exact=True, method=method)


class _Bits:
    """Write bits, the lowest bit of a byte first."""

    def __init__(self) -> None:
        self._text: list[str] = []

    def put(self, value: int, count: int) -> None:
        self._text.append(f"{value:0{count}b}"[::-1])

    def symbol(self, code: int, length: int) -> None:
        """Write a Huffman code, which begins with its highest bit."""
        self._text.append(f"{code:0{length}b}")

    def done(self) -> bytes:
        text = "".join(self._text)
        return int(text[::-1], 2).to_bytes(-(-len(text) // 8), "little")


def _single_symbol_code(bits: _Bits) -> None:
    """Write a code whose only symbol is 0."""
    bits.put(1, 4)


def _eight_bit_code(bits: _Bits) -> None:
    """Write a code whose first 256 symbols have eight bits each."""
    bits.put(0, 1)
    count = _LENGTH_ORDER.index(8) + 1
    bits.put(count - 4, 4)
    for symbol in _LENGTH_ORDER[:count]:
        bits.put(symbol in {0, 8}, 3)
    bits.put(1, 1)
    bits.put(3, 3)
    bits.put(254, 8)
    bits.symbol((1 << 256) - 1, 256)


def stream(groups: int, side: int) -> bytes:
    """Write side x side black pixels: one group of codes for each 4x4 block, up to `groups`."""
    bits = _Bits()
    bits.put(0, 1 + 1)  # no transform, no colour cache
    bits.put(1, 1 + 3)  # blocks of four
    bits.put(0, 1)
    for code in (
        _eight_bit_code,
        _eight_bit_code,
        _single_symbol_code,
        _single_symbol_code,
        _single_symbol_code,
    ):
        code(bits)
    for block in range((side // 4) ** 2):
        group = min(block, groups - 1)
        bits.symbol(group & 255, 8)
        bits.symbol(group >> 8, 8)
    bits.put(int("0001" * 5, 2), 20)
    bits.symbol(int("1000" * 5 * (groups - 1), 2) if groups > 1 else 0, 20 * (groups - 1) or 1)
    return bits.done()


def _side(groups: int) -> int:
    return next(side for side in (64, 256, 512, 768, 1024) if (side // 4) ** 2 >= groups)


def lossless(groups: int) -> bytes:
    side = _side(groups)
    return _webp(_chunk(b"VP8L", _header(side) + stream(groups, side)))


def _header(side: int) -> bytes:
    return b"\x2f" + struct.pack("<I", side - 1 | side - 1 << 14)


def _chunk(kind: bytes, body: bytes) -> bytes:
    return kind + struct.pack("<I", len(body)) + body + b"\0" * (len(body) % 2)


def _webp(*chunks: bytes) -> bytes:
    body = b"WEBP" + b"".join(chunks)
    return b"RIFF" + struct.pack("<I", len(body)) + body


def _canvas(side: int, flags: int) -> bytes:
    return _chunk(b"VP8X", struct.pack("<I", flags) + (side - 1).to_bytes(3, "little") * 2)


def _in_alpha(groups: int, behind: bool = False) -> bytes:
    side = _side(groups)
    colours = encode(Image.new("RGB", (side, side)), "WEBP")[12:]
    alpha = _chunk(b"ALPH", b"\1" + stream(groups, side))
    return _webp(_canvas(side, 16), *((colours, alpha) if behind else (alpha, colours)))


def _in_frame(groups: int) -> bytes:
    side = _side(groups)
    place = bytes(6) + (side - 1).to_bytes(3, "little") * 2 + bytes([100, 0, 0, 0])
    frame = _chunk(b"ANMF", place + _chunk(b"VP8L", _header(side) + stream(groups, side)))
    return _webp(_canvas(side, 2), _chunk(b"ANIM", bytes(6)), frame)


def _fine_transforms() -> bytes:
    """Write a predictor image for 4x4 blocks in which each symbol takes one bit."""
    bits = _Bits()
    bits.put(1, 1)
    bits.put(0, 2 + 3 + 1)
    bits.put(0b11 | 0 << 2 | 0 << 3, 1 + 1 + 1 + 1)  # two symbols, 0 and then 1
    bits.put(1, 8)
    for _ in range(4):
        _single_symbol_code(bits)
    return _webp(_chunk(b"VP8L", _header(6400) + bits.done() + bytes(400_000)))
