"""Reject ICC profiles that could cost lcms2 unbounded time or memory.

The expensive ones are small files that repeat: of multiProcessElements (tags D2B0 to D2B3), a kilobyte can
hold a thousand references to one place. lcms2 itself limits curves, to 32,767 values each.
"""

import struct
from math import prod
from typing import Final

MAX_PROFILE_BYTES: Final = 4_000_000  # bytes; print profiles have up to three million
_MAX_TAGS: Final = 100  # the limit of lcms2
_CHANNELS: Final = {b"GRAY": 1, b"RGB ": 3, b"Lab ": 3, b"CMYK": 4}
_CLASSES: Final = {b"scnr", b"mntr", b"prtr", b"spac"}
_ELEMENTS: Final = {b"D2B0", b"D2B1", b"D2B2", b"D2B3"}
_TABLES: Final = {b"A2B0", b"A2B1", b"A2B2"}


def rejection_reason(profile: object) -> str | None:
    """Return why a profile is not used; None where it is.

    Profiles that are merely broken pass: lcms2 refuses them cheaply.
    """
    if not isinstance(profile, bytes):
        return "it is not a block of bytes"
    if len(profile) > MAX_PROFILE_BYTES:
        return f"it has {len(profile)} bytes; at most {MAX_PROFILE_BYTES} are read"
    if len(profile) < 132 or profile[36:40] != b"acsp":
        return "it is not an ICC profile"
    kind, space = profile[12:16], profile[16:20]
    # Photoshop and lcms2 give Lab pictures an abstract profile, which is the identity.
    if kind not in _CLASSES and not (kind == b"abst" and space == b"Lab "):
        return f"its class {_printed(kind)} is not that of an input, display or output device"
    if space not in _CHANNELS or profile[20:24] not in {b"XYZ ", b"Lab "}:
        return f"its colour space {_printed(space)} is not grey, RGB, CMYK or Lab"
    count = int.from_bytes(profile[128:132], "big")
    if count > _MAX_TAGS or 132 + 12 * count > len(profile):
        return f"it claims {count} tags"
    end = min(len(profile), int.from_bytes(profile[:4], "big"))
    for name, at, size in struct.iter_unpack(">4sII", profile[132 : 132 + 12 * count]):
        if at + size > end:
            return f"its tag {_printed(name)} lies outside of it"
        if name in _ELEMENTS:
            return f"its tag {_printed(name)} is a chain of elements, which is not read"
        if name in _TABLES and not _is_bounded(profile[at : at + size], _CHANNELS[space]):
            return f"its tag {_printed(name)} is not a table of a bounded size"
    return None


def _is_bounded(tag: bytes, channels: int) -> bool:
    """Whether `tag` is mft1, mft2 or mAB from `channels` to three, with its colour table inside the tag."""
    if len(tag) < 32 or tag[8] != channels or tag[9] != 3:
        return False
    colours = 3 * prod([tag[10]] * channels)
    if tag[:4] == b"mft1":
        return 48 + 256 * (channels + 3) + colours <= len(tag)
    if tag[:4] == b"mft2" and len(tag) >= 52:
        first = int.from_bytes(tag[48:50], "big")
        last = int.from_bytes(tag[50:52], "big")
        return 52 + 2 * (first * channels + last * 3 + colours) <= len(tag)
    if tag[:4] != b"mAB ":
        return False
    offsets: tuple[int, ...] = struct.unpack(">5I", tag[12:32])
    table = offsets[3]
    if max(offsets) >= len(tag) or 0 < table > len(tag) - 20:
        return False
    return not table or table + 20 + prod(tag[table : table + channels]) * 3 * tag[table + 16] <= len(tag)


def _printed(name: bytes) -> str:
    return repr(name.decode("latin-1").strip())
