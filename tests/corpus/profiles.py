"""Make ICC profiles: valid ones of every supported kind, and ones that would cost lcms2 too much.

Pictures with either kind are decoded; a rejected profile leaves their pixels unchanged.
"""

import struct
from collections.abc import Iterator
from functools import partial
from typing import Final

from PIL import Image

from tests.corpus.case import PIXELS, Case
from tests.support.drawing.pictures import encode

Tag = tuple[bytes, bytes]
# The names of the profiles that are applied.
APPLIED: Final = (
    "matrix",
    "grey",
    "mft1-rgb",
    "mft2-rgb",
    "mft2-cmyk",
    "mab-rgb",
    "mab-cmyk",
    "mab-8-bits",
)


def cases() -> Iterator[Case]:
    for name in profiles():
        for kind in ("PNG", "JPEG", "WEBP", "TIFF", "AVIF"):
            mode = mode_of(name)
            if mode == "RGB" or kind in {"JPEG", "TIFF"}:
                # Pillow unpacks at most a megabyte of a PNG's profile.
                expected = "MAX_TEXT_CHUNK" if (name, kind) == ("4-megabytes", "PNG") else PIXELS
                yield Case(f"profile-{name}-{kind}", partial(_picture, name, kind, mode), expected=expected)


def mode_of(name: str) -> str:
    """Return the mode of pictures that the profile fits."""
    return {"grey": "L", "cmyk": "CMYK"}.get(name.split("-")[-1], "RGB")


def _picture(name: str, kind: str, mode: str) -> bytes:
    image = Image.new("RGB", (64, 64), (200, 30, 90)).convert(mode)
    options = {"speed": 10} if kind == "AVIF" else {}
    return encode(image, kind, icc_profile=profiles()[name], **options)


def profiles() -> dict[str, bytes]:
    """Return every profile of the corpus by name."""
    curves, table = mpet(20_000, _curve_set()), mpet(10_000, _float_table(30))
    return {
        "matrix": display(),
        "grey": profile(
            [(b"wtpt", _xyz(0.9642, 1, 0.8249)), (b"kTRC", _gamma())], b"mntr", b"GRAY", b"XYZ "
        ),
        "mft1-rgb": profile([(b"A2B0", mft1(3, 9))]),
        "mft2-rgb": profile([(b"A2B0", mft2(3, 9)), (b"A2B1", mft2(3, 9))]),
        "mft2-cmyk": profile([(b"A2B0", mft2(4, 9))], space=b"CMYK"),
        "mab-rgb": profile([(b"A2B0", mab(3, 9))], version=0x04200000),
        "mab-cmyk": profile([(b"A2B0", mab(4, 9))], space=b"CMYK", version=0x04200000),
        "mab-8-bits": profile([(b"A2B0", mab(3, 9, precision=1))], version=0x04200000),
        "elements": display((b"D2B0", curves)),
        "elements-tables": display((b"D2B0", table)),
        "elements-1": display((b"D2B1", mpet(1, _curve_set())), (b"A2B0", mft2(3, 9))),
        "elements-3": display((b"D2B3", curves)),
        "elements-as-table": display((b"A2B0", curves)),
        "tags-101": display(*((b"x%03d" % n, _gamma()) for n in range(94))),
        "tags-many": display()[:128] + b"\xff\xff\xff\xff" + display()[132:],
        "tag-outside": display((b"A2B0", mft2(3, 9)))[:-20],
        "size-smaller": struct.pack(">I", 200) + display()[4:],
        "mft1-too-fine": profile([(b"A2B0", _patched(mft1(3, 9), 10, 255))]),
        "mft2-too-fine": profile([(b"A2B0", _patched(mft2(3, 9), 10, 255))]),
        "mft2-curves": profile([(b"A2B0", _patched(mft2(3, 9), 48, 0x7F))]),
        "mft2-15-channels": profile([(b"A2B0", _patched(mft2(3, 9), 8, 15))]),
        "mft2-15-channels-out": profile([(b"A2B0", _patched(mft2(3, 9), 9, 15))]),
        "mab-too-fine": profile([(b"A2B0", _patched(mab(3, 9), _table_at(), 255, 3))], version=0x04200000),
        "mab-outside": profile([(b"A2B0", _patched(mab(3, 9), 24, 0x7F))], version=0x04200000),
        "named-colours": profile([(b"ncl2", b"ncl2" + bytes(80))], b"nmcl"),
        "link": profile([(b"A2B0", mft2(3, 9))], b"link", pcs=b"RGB "),
        "abstract": profile([(b"A2B0", mft2(3, 9))], b"abst"),
        "15-colours": profile([(b"A2B0", mft2(3, 9))], space=b"FCLR"),
        "no-profile": b"profile" * 30,
        "empty": b"",
        "short": display()[:131],
        "4-megabytes": display((b"xtra", bytes(4_100_000))),
    }


def display(*more: Tag) -> bytes:
    """Return a display profile of a matrix and three curves: sRGB primaries, gamma 2.2."""
    primaries = ((0.4360, 0.2225, 0.0139), (0.3851, 0.7169, 0.0971), (0.1431, 0.0606, 0.7141))
    tags = [
        (name + b"XYZ", _xyz(*values)) for name, values in zip((b"r", b"g", b"b"), primaries, strict=True)
    ]
    tags += [(name + b"TRC", _gamma()) for name in (b"r", b"g", b"b")]
    return profile(
        [(b"wtpt", _xyz(0.9642, 1, 0.8249)), *tags, *more], b"mntr", pcs=b"XYZ ", version=0x04300000
    )


def profile(
    tags: list[Tag],
    kind: bytes = b"prtr",
    space: bytes = b"RGB ",
    pcs: bytes = b"Lab ",
    version: int = 0x02400000,
) -> bytes:
    at = 132 + 12 * len(tags)
    table, content = struct.pack(">I", len(tags)), b""
    for name, body in tags:
        table += struct.pack(">4sII", name, at + len(content), len(body))
        content += body + bytes(-len(body) % 4)
    head = struct.pack(">I4sI4s4s4s", at + len(content), b"lcms", version, kind, space, pcs)
    head += struct.pack(">6H", 2020, 1, 1, 0, 0, 0) + b"acsp"
    head = head.ljust(68, b"\0") + _xyz(0.9642, 1, 0.8249)[8:]
    return head.ljust(128, b"\0") + table + content


def mpet(count: int, element: bytes) -> bytes:
    """Return multiProcessElements with `count` references to one element."""
    at = 16 + 8 * count
    return (
        struct.pack(">4sIHHI", b"mpet", 0, 3, 3, count)
        + struct.pack(">II", at, len(element)) * count
        + element
    )


def _curve_set() -> bytes:
    curve = struct.pack(">4sIHH", b"curf", 0, 1, 0) + struct.pack(
        ">4sIHH4f", b"parf", 0, 0, 0, 1.01, 1, 0, 0
    )
    return struct.pack(">4sIHH", b"cvst", 0, 3, 3) + struct.pack(">II", 36, len(curve)) * 3 + curve


def _float_table(grid: int) -> bytes:
    head = struct.pack(">4sIHH", b"clut", 0, 3, 3) + bytes([grid] * 3).ljust(16, b"\0")
    return head + struct.pack(">f", 0.5) * (3 * grid**3)


def mft1(channels: int, grid: int) -> bytes:
    ramp, colours = bytes(range(256)), bytes(n % 251 for n in range(3 * grid**channels))
    return _mft(b"mft1", channels, grid) + ramp * channels + colours + ramp * 3


def mft2(channels: int, grid: int) -> bytes:
    ramp = struct.pack(">256H", *range(0, 65536, 257))
    colours = struct.pack(f">{3 * grid**channels}H", *(n * 17 % 65521 for n in range(3 * grid**channels)))
    return (
        _mft(b"mft2", channels, grid) + struct.pack(">HH", 256, 256) + ramp * channels + colours + ramp * 3
    )


def _mft(kind: bytes, channels: int, grid: int) -> bytes:
    unity = (65536, 0, 0, 0, 65536, 0, 0, 0, 65536)
    return struct.pack(">4sI4B9i", kind, 0, channels, 3, grid, 0, *unity)


def mab(channels: int, grid: int, precision: int = 2) -> bytes:
    """Return an mAB tag: B curves, matrix, M curves, colour table, A curves."""
    curves = _gamma() * 3
    matrix = struct.pack(">12i", 65536, 0, 0, 0, 65536, 0, 0, 0, 65536, 0, 0, 0)
    table = bytes([grid] * channels).ljust(16, b"\0") + bytes([precision, 0, 0, 0])
    table += bytes(n % 251 for n in range(3 * precision * grid**channels))
    parts = [curves, matrix, curves, table + bytes(-len(table) % 4), _gamma() * channels]
    places = [32 + sum(map(len, parts[:n])) for n in range(5)]
    return struct.pack(">4sI4B5I", b"mAB ", 0, channels, 3, 0, 0, *places) + b"".join(parts)


def _table_at() -> int:
    return int.from_bytes(mab(3, 9)[24:28], "big")


def _patched(tag: bytes, at: int, value: int, count: int = 1) -> bytes:
    return tag[:at] + bytes([value] * count) + tag[at + count :]


def _xyz(*values: float) -> bytes:
    return b"XYZ \0\0\0\0" + struct.pack(">3i", *(round(65536 * value) for value in values))


def _gamma() -> bytes:
    return b"para\0\0\0\0" + struct.pack(">HHi", 0, 0, round(65536 * 2.2))
