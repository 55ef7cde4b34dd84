"""Read a JPEG, and count its scans: their number decides how long decoding takes.

Scans are counted up to the end of the first picture; a film or an archive may follow it in the file.
"""

from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any, Final

import numpy as np
from PIL import JpegImagePlugin

from contract.formats.rebind import with_globals

# Coefficients that all scans together may pass over: 100 scans of 5 million. 20 scans are always allowed.
_MAX_SCANNED: Final = 500_000_000
_MAX_SEGMENTS: Final = 5_000  # that are walked; an intact file with a long ICC profile has a few hundred
_BLOCK_BYTES: Final = 1 << 16  # bytes that are searched at once
_SOF0, _DHT, _EOI, _SOS, _DQT, _DRI = 0xC0, 0xC4, 0xD9, 0xDA, 0xDB, 0xDD
# Markers followed by a length, which libjpeg reads or skips: supported frames, DHT, DAC, DQT, DNL, DRI,
# APPn and COM. Any other is an error to libjpeg.
_SEGMENTS: Final = {_SOF0, 0xC1, 0xC2, _DHT, 0xCC, _SOS, _DQT, 0xDC, _DRI, *range(0xE0, 0xF0), 0xFE}
_BASELINE: Final = _SEGMENTS - {0xC1, 0xC2, 0xCC, 0xDC}
_MAX_SIDE: Final = 65_500  # pixels; libjpeg's JPEG_MAX_DIMENSION
# Of luma in a baseline JPEG, columns and rows for each of chroma: 4:4:4, 4:4:0, 4:2:2 and 4:2:0.
_SAMPLINGS: Final = {0x11, 0x12, 0x21, 0x22}
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


def baseline_end(data: bytes) -> int | None:
    """Return where a plain baseline JPEG ends, in bytes; None for any other file.

    It has components 1, 2, 3 in one scan, chroma at full or half resolution, whole and valid tables for all
    of them, and an EOI where the data of the scan end. libjpeg reads it to the end without an error.
    """
    tables, frame, at = set[int](), b"", 2
    for _segment in range(_MAX_SEGMENTS):
        code, length = data[at + 1 : at + 2], int.from_bytes(data[at + 2 : at + 4], "big")
        marker = code[0] if code else 0
        content = data[at + 4 : at + 2 + length]
        if data[at : at + 1] != b"\xff" or marker not in _BASELINE or len(content) != length - 2:
            return None
        if marker == _DRI and length != 4:
            return None
        at += 2 + length
        if marker == _SOS:
            end = _next_marker(data, at)
            whole = _is_whole_scan(content, frame, tables) and data[end : end + 2] == b"\xff\xd9"
            return end + 2 if whole else None
        if marker == _SOF0:
            if frame or not _is_plain_frame(content):
                return None
            frame = content
        if marker in {_DQT, _DHT}:
            found = _tables(content, _quantisation_bytes if marker == _DQT else _huffman_bytes)
            if found is None:
                return None
            tables |= {marker << 8 | number for number in found}
    return None


def _is_plain_frame(frame: bytes) -> bool:
    return (
        len(frame) == 15
        and frame[0] == 8  # bits a sample
        and 0 < int.from_bytes(frame[1:3], "big") <= _MAX_SIDE  # 0: the height follows the scan
        and 0 < int.from_bytes(frame[3:5], "big") <= _MAX_SIDE
        and frame[5:6] + frame[6::3] == b"\3\1\2\3"  # three components, and their numbers
        and frame[7] in _SAMPLINGS
        and frame[10] == frame[13] == 0x11
    )


def _is_whole_scan(scan: bytes, frame: bytes, tables: set[int]) -> bool:
    """Whether a scan has all components and coefficients, and every table that they need is defined."""
    if not frame or len(scan) != 10 or scan[:1] + scan[1:7:2] != b"\3\1\2\3" or scan[7:] != b"\0\x3f\0":
        return False
    used = {_DQT << 8 | number for number in frame[8::3]}
    for pair in scan[2:7:2]:
        used |= {_DHT << 8 | pair >> 4, _DHT << 8 | 0x10 | pair & 15}
    return used <= tables


def _tables(content: bytes, size: Callable[[bytes], int]) -> list[int] | None:
    """Return the numbers of the tables of a segment; None if one is invalid, for which `size` returns 0."""
    numbers = list[int]()
    while content:
        length = size(content)
        if not length or length > len(content):
            return None
        numbers.append(content[0] & 0x1F)  # bit 4 of a Huffman table says that it is for AC
        content = content[length:]
    return numbers


def _quantisation_bytes(content: bytes) -> int:
    return 65 if content[0] < 4 else 0  # of one byte a value, as in every baseline JPEG


def _huffman_bytes(content: bytes) -> int:
    if len(content) < 17 or content[0] not in {0, 1, 0x10, 0x11}:
        return 0
    used = 0
    for length, count in enumerate(content[1:17], 1):
        used = 2 * used + count
        if used >= 1 << length:  # the code of ones alone is no code
            return 0
    end = 17 + sum(content[1:17])
    symbols = content[17:end]
    if content[0] & 0x10:  # AC: zeros to skip, then the bits of a coefficient
        return end if all(symbol & 15 <= 10 for symbol in symbols) else 0
    return end if max(symbols, default=0) <= 11 else 0
