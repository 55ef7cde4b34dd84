"""Count the pixels that decoding an AV1 or HEVC codestream takes, from its headers alone."""

from typing import Final

_SEQUENCE, _FRAME_HEADER, _FRAME = 1, 3, 6  # types of OBU
_SEQUENCE_PARAMETER_SET: Final = 33  # the type of NAL unit that holds the size
TOO_MANY_UNITS: Final = "its codestreams have too many units"
Bytes = bytes | memoryview


class _Bits:
    """Read bits, the highest bit of a byte first. Raises ValueError beyond the end."""

    def __init__(self, data: bytes) -> None:
        self._value, self._left = int.from_bytes(data, "big"), 8 * len(data)

    def read(self, count: int) -> int:
        self._left -= count
        if self._left < 0:
            raise ValueError("the codestream's header ends too early")
        return self._value >> self._left & ((1 << count) - 1)

    def golomb(self) -> int:
        """Read an Exp-Golomb number: ue(v) of HEVC, uvlc() of AV1."""
        zeros = 0
        while not self.read(1):
            zeros += 1
            if zeros > 32:
                raise ValueError("a number in the codestream's header is too large")
        return (1 << zeros) - 1 + self.read(zeros)


def av1_pixels(data: Bytes, max_units: int) -> tuple[int, int]:
    """Return the pixels of all frames together, and the number of OBUs.

    Raises ValueError for a broken header, and for more than `max_units` units.
    """
    at = units = pixels = size = 0
    while at < len(data):
        units += 1
        if units > max_units:
            raise ValueError(TOO_MANY_UNITS)
        head = data[at]
        at += 2 if head & 4 else 1
        length = len(data) - at
        if head & 2:
            length, at = _leb128(data, at)
        kind = head >> 3 & 15
        if kind == _SEQUENCE:
            size = _av1_size(_Bits(bytes(data[at : at + min(length, 500)])))
        if kind in {_FRAME_HEADER, _FRAME}:
            pixels += size
        at += length
    return pixels, units


def _leb128(data: Bytes, at: int) -> tuple[int, int]:
    """Read a LEB128 number. Return it, and the position after it."""
    value = 0
    for index, byte in enumerate(bytes(data[at : at + 8])):
        value |= (byte & 127) << 7 * index
        if byte < 128:
            return value, at + index + 1
    raise ValueError("a number in the codestream does not end")


def _av1_size(bits: _Bits) -> int:
    """Return the pixels of the largest frame, from a sequence header (AV1 specification, 5.5)."""
    bits.read(4)  # profile, still picture
    reduced = bits.read(1)
    if reduced:
        bits.read(5)
    else:
        _skip_operating_points(bits)
    width, height = bits.read(4) + 1, bits.read(4) + 1
    size = (bits.read(width) + 1) * (bits.read(height) + 1)
    # With the full header, a frame may have a size of its own, of as many bits.
    return size if reduced else 1 << width + height


def _skip_operating_points(bits: _Bits) -> None:
    delay = 0  # bits per delay, where the decoder model is given
    if bits.read(1):
        bits.read(64)
        if bits.read(1):
            bits.golomb()
        if bits.read(1):
            delay = bits.read(5) + 1
            bits.read(42)
    displayed = bits.read(1)
    for _ in range(bits.read(5) + 1):
        bits.read(12)
        if bits.read(5) > 7:
            bits.read(1)
        if delay and bits.read(1):
            bits.read(2 * delay + 1)
        if displayed and bits.read(1):
            bits.read(4)


def hevc_pixels(data: Bytes, configuration: Bytes, max_units: int) -> tuple[int, int]:
    """Return the pixels of all pictures together, and the number of NAL units.

    `configuration` is the content of the box hvcC. Raises ValueError for a broken header, and for more
    than `max_units` units.
    """
    pictures, largest, at, units = 0, _configured_size(configuration), 0, 0
    while at + 6 <= len(data):
        units += 1
        if units > max_units:
            raise ValueError(TOO_MANY_UNITS)
        length = int.from_bytes(data[at : at + 4], "big")
        kind = data[at + 4] >> 1 & 63
        if kind < 32:
            pictures += data[at + 6] >> 7 if at + 6 < len(data) else 0  # count its first slice only
        elif kind == _SEQUENCE_PARAMETER_SET:
            largest = max(largest, _hevc_size(bytes(data[at + 4 : at + 4 + min(length, 500)])))
        at += 4 + length
    return pictures * largest, units


def _configured_size(configuration: Bytes) -> int:
    """Return the largest size in the sequence parameter sets of hvcC (ISO/IEC 14496-15, 8.3.3)."""
    largest, at = 0, 23
    for _ in range(configuration[22] if len(configuration) > 22 else 0):
        count = int.from_bytes(configuration[at + 1 : at + 3], "big")
        at += 3
        for _ in range(count):
            length = int.from_bytes(configuration[at : at + 2], "big")
            unit = bytes(configuration[at + 2 : at + 2 + min(length, 500)])
            if not unit:
                raise ValueError("a parameter set lies outside of its box")
            if unit[0] >> 1 & 63 == _SEQUENCE_PARAMETER_SET:
                largest = max(largest, _hevc_size(unit))
            at += 2 + length
    return largest


def _hevc_size(unit: bytes) -> int:
    """Return the pixels of a picture, from a sequence parameter set (H.265, 7.3.2.2)."""
    bits = _Bits(unit.replace(b"\0\0\3", b"\0\0"))
    bits.read(16 + 4)
    layers = bits.read(3)
    bits.read(1 + 96)
    present = [(bits.read(1), bits.read(1)) for _ in range(layers)]
    if layers:
        bits.read(2 * (8 - layers))
    for profile, level in present:
        bits.read(88 * profile + 8 * level)
    bits.golomb()
    if bits.golomb() == 3:
        bits.read(1)
    return bits.golomb() * bits.golomb()
