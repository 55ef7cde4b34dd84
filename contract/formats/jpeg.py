"""Read a JPEG, and count its scans: their number decides how long decoding takes.

Scans are counted up to the end of the first picture; a film or an archive may follow it in the file.
"""

from collections.abc import Iterator
from itertools import islice
from typing import Any, Final

import numpy as np
from PIL import JpegImagePlugin

from contract.formats.rebind import with_globals

# Coefficients that all scans together may pass over: 100 scans of 5 million. 20 scans are always allowed.
_MAX_SCANNED: Final = 500_000_000
_MAX_SEGMENTS: Final = 5_000  # that are walked; an intact file with a long ICC profile has a few hundred
_BLOCK_BYTES: Final = 1 << 16  # bytes that are searched at once
_EOI, _SOS = 0xD9, 0xDA
# Markers followed by a length, which libjpeg reads or skips: supported frames, DHT, DAC, DQT, DNL, DRI,
# APPn and COM. Any other is an error to libjpeg.
_SEGMENTS: Final = {0xC0, 0xC1, 0xC2, 0xC4, 0xCC, _SOS, 0xDB, 0xDC, 0xDD, *range(0xE0, 0xF0), 0xFE}
# By the byte after 0xFF: whether it is a marker that ends the data of a scan. A stuffed zero, a fill byte,
# TEM and restarts are not.
_IS_MARKER: Final = np.array([code not in {0, 1, 0xFF, *range(0xD0, 0xD8)} for code in range(256)])


def _refuse_coding(_image: Any, marker: int) -> None:
    """Raise ValueError for a coding that no camera writes, no browser shows, and that may cost much."""
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

    _open = with_globals(JpegImagePlugin.JpegImageFile._open, MARKER={**JpegImagePlugin.MARKER, **_REFUSED})

    def _read_dpi_from_exif(self) -> None:
        """Do not read EXIF for its resolution, which is not used here."""


def scans(data: bytes, start: int, pixels: int, progressive: bool) -> int:
    """Return an upper bound on the scans that libjpeg reads; the data of the first begins at `start`.

    Raises ValueError for too many: each scan passes over the whole picture, however short its data are.
    What follows the picture (a film, an archive, another picture) is not counted.
    """
    max_scans = max(_MAX_SCANNED // pixels, 20) if pixels else 20
    count = 1 + _count_patterns(data, start)
    if count > (max_scans if progressive else 1):
        count = _count_by_markers(data)
    if count > max_scans:
        raise ValueError(f"{count} scans are too many for {pixels} pixels")
    return count


def buffers_coefficients(data: bytes, start: int, layers: int) -> bool:
    """Whether the first scan lacks some components, so that libjpeg keeps all coefficients in memory."""
    head = b"\xff\xda\0" + bytes([6 + 2 * layers, layers])
    return data[max(0, start - 8 - 2 * layers) : max(0, start - 3 - 2 * layers)] != head


def _count_by_markers(data: bytes) -> int:
    """Count the scans by walking the markers; after a broken marker, by counting byte patterns."""
    count = position = 0
    for marker, at in islice(_markers(data), _MAX_SEGMENTS):
        if marker == _EOI:
            return count
        if marker not in _SEGMENTS:
            break
        count += marker == _SOS
        position = at + 2
    return count + _count_patterns(data, position)


def _markers(data: bytes) -> Iterator[tuple[int, int]]:
    """Yield each marker and its position, as libjpeg finds them; EOI at the end of the data.

    The content of a segment is skipped by its length; the data of a scan, up to the next marker that is
    neither a stuffed zero nor a restart.
    """
    at = 2
    while (at := _next_marker(data, at)) + 1 < len(data):
        yield data[at + 1], at
        at += 2 + max(2, int.from_bytes(data[at + 2 : at + 4], "big"))
    yield _EOI, at


def _next_marker(data: bytes, at: int) -> int:
    if data[at : at + 1] == b"\xff" and at + 1 < len(data) and _IS_MARKER[data[at + 1]]:
        return at  # the next segment follows immediately
    while at + 1 < len(data):
        block = np.frombuffer(data, np.uint8, min(_BLOCK_BYTES + 1, len(data) - at), at)
        places = np.flatnonzero(block[:-1] == 0xFF)
        hits = places[_IS_MARKER[block[places + 1]]]
        if hits.size:
            return at + int(hits[0])
        at += _BLOCK_BYTES
    return len(data)


def _count_patterns(data: bytes, start: int) -> int:
    """Count the byte pattern that starts a scan (FF DA), from `start` on.

    bytes.count takes six times as long and holds the GIL: 4 % of decoding.
    """
    count = 0
    for first in (start, start + 1):
        pairs = np.frombuffer(data, "<u2", max(0, len(data) - first) // 2, min(first, len(data)))
        count += int(np.count_nonzero(pairs == 0xDAFF))
    return count
