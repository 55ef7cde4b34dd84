"""Write animations whose first frame does not fill the canvas."""

import struct

from PIL import Image

from tests.support.drawing.pictures import encode

Box = tuple[int, int, int, int]
PALETTE = bytes(value for n in range(8) for value in (n * 30, 255 - n * 30, 90))


def gif_on_canvas(
    size: tuple[int, int], box: Box, index: int, transparent: int | None = None, frames: int = 1
) -> bytes:
    """Write a GIF with a first frame of palette colour `index`; later frames, of the next ones, fill it."""
    control = bytes([transparent is not None, 10, 0, transparent or 0])
    data = b"GIF89a" + struct.pack("<HHBBB", *size, 0x80 | 2, 0, 0) + PALETTE
    for n, place in enumerate([box, *[(0, 0, *size)] * (frames - 1)]):
        left, top, right, bottom = place
        data += b"!\xf9\4" + control + b"\0"
        data += b"," + struct.pack("<HHHHB", left, top, right - left, bottom - top, 0)
        data += b"\3" + _lzw((index + n) % 8, (right - left) * (bottom - top))
    return data + b";"


def _lzw(index: int, pixels: int) -> bytes:
    """Compress in codes of 4 bits; a clear code (8) before every fourth pixel keeps codes that short."""
    codes = [code for at in range(pixels) for code in ([8] if at % 4 == 0 else []) + [index]] + [9]
    codes += [0] * (len(codes) % 2)
    packed = bytes(low | high << 4 for low, high in zip(codes[::2], codes[1::2], strict=True))
    blocks = [packed[at : at + 255] for at in range(0, len(packed), 255)]
    return b"".join(bytes([len(block)]) + block for block in blocks) + b"\0"


def webp_on_canvas(
    size: tuple[int, int], box: Box, colour: tuple[int, int, int], alpha: int | None = None
) -> bytes:
    """Write a WebP animation with a first frame of one colour; without alpha channel if `alpha` is None."""
    left, top, right, bottom = box
    shade = colour if alpha is None else (*colour, alpha)
    frame = Image.new("RGB" if alpha is None else "RGBA", (right - left, bottom - top), shade)
    still = encode(frame, "WEBP", lossless=True, exact=True)[12:]
    still = still if still[:4] != b"VP8X" else still[18:]

    def numbers(*values: int) -> bytes:
        return b"".join(value.to_bytes(3, "little") for value in values)

    def chunk(kind: bytes, body: bytes) -> bytes:
        return kind + struct.pack("<I", len(body)) + body + b"\0" * (len(body) & 1)

    place = numbers(left // 2, top // 2, right - left - 1, bottom - top - 1, 100) + b"\0"
    head = bytes([2 | (16 if alpha is not None else 0), 0, 0, 0]) + numbers(size[0] - 1, size[1] - 1)
    body = b"WEBP" + chunk(b"VP8X", head) + chunk(b"ANIM", struct.pack("<IH", 0xFF0000FF, 0))
    body += chunk(b"ANMF", place + still)
    return b"RIFF" + struct.pack("<I", len(body)) + body
