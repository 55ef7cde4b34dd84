"""Run lengths and alpha of BMP, which Pillow reads slowly, or more strictly than other programs."""

import io
from typing import Any, Final

import numpy as np
from PIL import BmpImagePlugin, Image, ImageFile

MAX_STEPS: Final = 1_500_000  # stretches of runs, and escapes; up to 0.8 microseconds each
_LONG: Final = 100  # runs without an escape between them, from which on numpy unpacks them
_STEPS_OF_MANY: Final = 20  # what numpy's call takes
_AT_ONCE: Final = 4096  # runs in such a call; each has up to 255 pixels
_DIGITS: Final = bytes(int(chr(n), 16) if chr(n) in "0123456789abcdef" else 0 for n in range(256))
_RUNS: Final = {  # by the bits of a pixel: for each byte the longest run
    8: [bytes([n]) * 255 for n in range(256)],
    4: [bytes([n >> 4, n & 15]) * 128 for n in range(256)],
}
_RLE: Final = {BmpImagePlugin.BmpImageFile.COMPRESSIONS[name] for name in ("RLE8", "RLE4")}


def run_bytes(image: Image.Image, data: bytes) -> int:
    """Bound the time that run lengths take, in bytes: a second is 300 million of them."""
    return 240 * min(len(data) // 2, MAX_STEPS) if image.info.get("compression") in _RLE else 0


def opaque(image: Image.Image) -> Image.Image:
    """Ignore an alpha that is 0 in every pixel, which many programs leave there."""
    return image.convert("RGB") if image.mode == "RGBA" and not image.getchannel("A").getbbox() else image


class BmpFile(BmpImagePlugin.BmpImageFile):
    """Read a BMP whose run lengths are unpacked by `unpack`."""

    def load(self) -> Any:
        if self.tile and self.tile[0].codec_name == "bmp_rle":
            assert self.fp is not None
            ((_name, extents, offset, args),) = self.tile
            assert isinstance(args, tuple)
            self.fp.seek(offset)
            pixels = unpack(self.fp.read(), *self.size, four=bool(args[1]))
            self.fp = io.BytesIO(pixels)
            mode = "L" if self.mode in {"1", "L"} else "P"
            self.tile = [ImageFile._Tile("raw", extents, 0, (mode, 0, args[-1]))]
        return super().load()


def unpack(data: bytes, width: int, height: int, four: bool) -> bytearray:
    """Unpack RLE8, or with `four` RLE4: an index for each pixel, rows from the bottom up as in the file.

    Pixels that are skipped have index 0. Raises ValueError for more than MAX_STEPS, and where the data ends
    before the picture does.
    """
    pixels = bytearray(width * height)
    counts, values, runs = data[0::2], data[1::2], _RUNS[4 if four else 8]
    end = len(values)
    at = row = x = 0  # `row`: where it begins in `pixels`
    pieces: list[bytes] = []  # of the row
    left = MAX_STEPS
    while row + width < len(pixels) or (row < len(pixels) and x < width):
        left -= 1
        if left < 0:
            raise ValueError(f"more than {MAX_STEPS} stretches of runs")
        if at >= end:
            raise ValueError("image file is truncated")
        value = values[at]
        if counts[at]:
            stop = counts.find(0, at, at + _LONG)
            if stop < 0 and at + _LONG <= end:
                left -= _STEPS_OF_MANY
                at, run = _many_runs(counts, values, at, max(0, width - x), four)
            else:
                stop = stop if stop >= 0 else end
                run = b"".join([runs[v][:n] for v, n in zip(values[at:stop], counts[at:stop], strict=True)])
                at = stop
        elif value > 2:
            size = (value + 1) // 2 if four else value
            run = data[2 * at + 2 : 2 * at + 2 + size]
            if len(run) < size:
                raise ValueError("image file is truncated")
            run = _digits(run)[:value] if four else run
            at += 1 + (size + 1) // 2
        elif value == 1:
            break
        else:
            right, up = (counts[at + 1], values[at + 1]) if value and at + 1 < end else (0, 1)
            if up:
                pixels[row : row + width] = b"".join(pieces)[:width].ljust(width, b"\0")
                pieces, row = [bytes(x)] if value else [], row + width * up
                x = x if value else 0
            run = bytes(right)
            at += value or 1
        if x < width:
            pieces.append(run)
            x += len(run)
    if row < len(pixels):
        pixels[row : row + width] = b"".join(pieces)[:width].ljust(width, b"\0")
    return pixels


def _many_runs(counts: bytes, values: bytes, at: int, room: int, four: bool) -> tuple[int, bytes]:
    """-> (the place behind them, their pixels). What is beyond `room` may be left out."""
    stop = counts.find(0, at)
    stop = min(len(values), stop if stop >= 0 else len(values))
    if not room:
        return stop, b""
    here = slice(at, min(stop, at + min(room, _AT_ONCE)))
    lengths = np.frombuffer(counts[here], np.uint8)
    run = np.repeat(np.frombuffer(values[here], np.uint8), lengths)
    if four:
        begins = np.cumsum(lengths, dtype=np.int64) - lengths
        second = (np.arange(len(run)) - np.repeat(begins, lengths)) & 1
        run = np.where(second, run & 15, run >> 4).astype(np.uint8)
    return here.stop, run.tobytes()


def _digits(data: bytes) -> bytes:
    """The halves of each byte, the upper one first."""
    return data.hex().encode().translate(_DIGITS)
