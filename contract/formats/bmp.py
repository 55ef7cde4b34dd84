"""Read BMP: run lengths quickly, and an all-zero alpha channel as opaque.

Pillow unpacks run lengths slowly, and takes an all-zero alpha literally, unlike other programs.
"""

import io
from typing import Any, Final

import numpy as np
from PIL import BmpImagePlugin, Image, ImageFile

MAX_STEPS: Final = 1_500_000  # sequences of runs, and escapes; up to 0.8 microseconds each
_MIN_RUNS_FOR_NUMPY: Final = 100  # from so many runs without an escape between them, numpy unpacks them
_STEPS_PER_CALL: Final = 20  # the cost of the calls to numpy
_RUNS_PER_CALL: Final = 4096  # runs per such call; each has up to 255 pixels
_DIGITS: Final = bytes(int(chr(n), 16) if chr(n) in "0123456789abcdef" else 0 for n in range(256))
_RUNS: Final = {  # by bits per pixel: for each byte, the longest run of it
    8: [bytes([n]) * 255 for n in range(256)],
    4: [bytes([n >> 4, n & 15]) * 128 for n in range(256)],
}
_RLE: Final = {BmpImagePlugin.BmpImageFile.COMPRESSIONS[name] for name in ("RLE8", "RLE4")}


def run_bytes(image: Image.Image, data: bytes) -> int:
    """Estimate the time for unpacking run lengths, as bytes: one second counts as 300 million bytes."""
    return 240 * min(len(data) // 2, MAX_STEPS) if image.info.get("compression") in _RLE else 0


def without_empty_alpha(image: Image.Image) -> Image.Image:
    """Drop an alpha channel that is 0 in every pixel: many programs write it without meaning it."""
    return image.convert("RGB") if image.mode == "RGBA" and not image.getchannel("A").getbbox() else image


class BmpFile(BmpImagePlugin.BmpImageFile):
    """Read a BMP, its run lengths with `unpack`."""

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
    """Unpack RLE8, or RLE4 with `four`, to width * height palette indices, one byte each.

    Rows run from the bottom up, as in the file; skipped pixels have index 0. Raises ValueError for more
    than MAX_STEPS, and where the data ends before the picture does.
    """
    pixels = bytearray(width * height)
    counts, values, runs = data[0::2], data[1::2], _RUNS[4 if four else 8]
    end = len(values)
    at = row = x = 0  # `at` counts pairs of bytes; `row` is the start of the current row in `pixels`
    pieces: list[bytes] = []  # of the current row
    steps_left = MAX_STEPS
    while row + width < len(pixels) or (row < len(pixels) and x < width):
        steps_left -= 1
        if steps_left < 0:
            raise ValueError(f"more than {MAX_STEPS} sequences of runs")
        if at >= end:
            raise ValueError("image file is truncated")
        value = values[at]
        if counts[at]:
            stop = counts.find(0, at, at + _MIN_RUNS_FOR_NUMPY)
            if stop < 0 and at + _MIN_RUNS_FOR_NUMPY <= end:
                steps_left -= _STEPS_PER_CALL
                at, run = _unpack_with_numpy(counts, values, at, max(0, width - x), four)
            else:
                stop = stop if stop >= 0 else end
                run = b"".join([runs[v][:n] for v, n in zip(values[at:stop], counts[at:stop], strict=True)])
                at = stop
        elif value > 2:
            size = (value + 1) // 2 if four else value
            run = data[2 * at + 2 : 2 * at + 2 + size]
            if len(run) < size:
                raise ValueError("image file is truncated")
            run = _split_halves(run)[:value] if four else run
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


def _unpack_with_numpy(counts: bytes, values: bytes, at: int, room: int, four: bool) -> tuple[int, bytes]:
    """Unpack the runs from `at` on. Return the position after them, and their pixels.

    Pixels beyond `room`, what is left of the row, may be missing.
    """
    stop = counts.find(0, at)
    stop = min(len(values), stop if stop >= 0 else len(values))
    if not room:
        return stop, b""
    window = slice(at, min(stop, at + min(room, _RUNS_PER_CALL)))
    lengths = np.frombuffer(counts[window], np.uint8)
    run = np.repeat(np.frombuffer(values[window], np.uint8), lengths)
    if four:
        begins = np.cumsum(lengths, dtype=np.int64) - lengths
        second = (np.arange(len(run)) - np.repeat(begins, lengths)) & 1
        run = np.where(second, run & 15, run >> 4).astype(np.uint8)
    return window.stop, run.tobytes()


def _split_halves(data: bytes) -> bytes:
    """Split each byte into its two halves, the upper one first."""
    return data.hex().encode().translate(_DIGITS)
