"""The reader of JPEG, and how many scans one has up to its own end: what makes it take long, and memory."""

from collections.abc import Iterator
from itertools import islice
from typing import Any, Final

import numpy as np
from PIL import JpegImagePlugin

from contract.formats.rebind import rebound

# Coefficients that all scans pass over: 100 scans of 5 million; but 20 for a picture of any size.
_MAX_SCANNED: Final = 500_000_000
_MAX_SEGMENTS: Final = 5_000  # that are walked; a sound file has a few hundred, of a long ICC profile
_BLOCK: Final = 1 << 16  # bytes that are searched at once
_EOI, _SOS = 0xD9, 0xDA
# Markers with a length behind them that libjpeg passes over: frames that are read, DHT, DAC, DQT, DNL, DRI,
# APPn and COM. Any other is an error to it.
_SEGMENTS: Final = {0xC0, 0xC1, 0xC2, 0xC4, 0xCC, _SOS, 0xDB, 0xDC, 0xDD, *range(0xE0, 0xF0), 0xFE}
# What is a marker behind 0xFF: no stuffed zero, no fill byte; TEM and restarts end nothing.
_IS_MARKER: Final = np.array([code not in {0, 1, 0xFF, *range(0xD0, 0xD8)} for code in range(256)])


def _refuse_coding(_image: Any, marker: int) -> None:
    """Refuse what no camera writes and no browser shows, and what can cost far more than its size."""
    raise ValueError(
        f"its coding (SOF{marker & 15}) is not read; save it as a baseline or progressive JPEG"
    )


_REFUSED: Final = {  # lossless, differential and arithmetic coding
    0xFF00 | marker: (f"SOF{marker - 0xC0}", "", _refuse_coding)
    for marker in range(0xC3, 0xD0)
    if marker not in {0xC4, 0xC8, 0xCC}
}


class JpegFile(JpegImagePlugin.JpegImageFile):
    """Read the first picture of a JPEG, baseline or progressive."""

    _open = rebound(JpegImagePlugin.JpegImageFile._open, MARKER={**JpegImagePlugin.MARKER, **_REFUSED})

    def _read_dpi_from_exif(self) -> None:
        """Leave EXIF alone: its resolution is of no use here."""


def scans(data: bytes, start: int, pixels: int, progressive: bool) -> int:
    """Count at least as many scans as libjpeg reads; the data of the first begins at `start`.

    Raises ValueError where they are too many: every scan passes over the whole picture, however little it
    says. What lies behind the picture (a film, an archive, another picture) doesn't count.
    """
    most = max(_MAX_SCANNED // pixels, 20) if pixels else 20
    count = 1 + _begun(data, start)
    if count > (most if progressive else 1):
        count = _walked(data)
    if count > most:
        raise ValueError(f"{count} scans are too many for {pixels} pixels")
    return count


def holds_coefficients(data: bytes, start: int, layers: int) -> bool:
    """Whether the first scan lacks some of the components; libjpeg then keeps all coefficients."""
    head = b"\xff\xda\0" + bytes([6 + 2 * layers, layers])
    return data[max(0, start - 8 - 2 * layers) : max(0, start - 3 - 2 * layers)] != head


def _walked(data: bytes) -> int:
    """Count the scans by their markers. From where the structure is odd, count all that looks like one."""
    found = passed = 0
    for marker, at in islice(_markers(data), _MAX_SEGMENTS):
        if marker == _EOI:
            return found
        if marker not in _SEGMENTS:
            break
        found += marker == _SOS
        passed = at + 2
    return found + _begun(data, passed)


def _markers(data: bytes) -> Iterator[tuple[int, int]]:
    """-> each marker and its place, as libjpeg finds them: it passes over what a segment holds by its
    length, and over the data of a scan up to what is neither stuffed nor a restart. EOI at the end of the
    data.
    """
    at = 2
    while (at := _next_marker(data, at)) + 1 < len(data):
        yield data[at + 1], at
        at += 2 + max(2, int.from_bytes(data[at + 2 : at + 4], "big"))
    yield _EOI, at


def _next_marker(data: bytes, at: int) -> int:
    if data[at : at + 1] == b"\xff" and at + 1 < len(data) and _IS_MARKER[data[at + 1]]:
        return at  # one segment follows the other
    while at + 1 < len(data):
        block = np.frombuffer(data, np.uint8, min(_BLOCK + 1, len(data) - at), at)
        places = np.flatnonzero(block[:-1] == 0xFF)
        hits = places[_IS_MARKER[block[places + 1]]]
        if hits.size:
            return at + int(hits[0])
        at += _BLOCK
    return len(data)


def _begun(data: bytes, start: int) -> int:
    """Count what looks like the beginning of a scan.

    bytes.count takes six times as long, and the interpreter with it: 4 % of decoding.
    """
    found = 0
    for first in (start, start + 1):
        pairs = np.frombuffer(data, "<u2", max(0, len(data) - first) // 2, min(first, len(data)))
        found += int(np.count_nonzero(pairs == 0xDAFF))
    return found
