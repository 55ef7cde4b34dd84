"""Make unusual files, most of them valid: shapes, depths, colour models, profiles."""

import io
import random
import struct
from collections.abc import Iterator
from functools import partial

import numpy as np
from PIL import Image, ImageCms

from tests.corpus.case import Case
from tests.corpus.files import LONG, RATIONAL, SHORT, Field, ifd, png_of, segment, tiff_fields, tiff_of
from tests.support.drawing.pictures import encode, png_chunk, swapped_profile
from tests.support.drawing.samples import SCENE, samples

_FORMATS = ("JPEG", "PNG", "GIF", "BMP", "TIFF", "WEBP", "AVIF", "HEIF")
_MAX_SIDE = {"JPEG": 65500, "GIF": 65535, "WEBP": 16383, "AVIF": 16384, "HEIF": 8192}


def cases() -> Iterator[Case]:
    for name in samples():
        yield Case(f"mode-{name}", partial(_mode, name))
    for kind in _FORMATS:
        max_side = _MAX_SIDE.get(kind, 100_000)
        min_side = 64 if kind == "HEIF" else 1  # limits of the encoders
        for size in (
            (min_side, min_side),
            (min_side, max_side),
            (max_side, min_side),
            (67, 65),
            (255, 257),
        ):
            large = kind in {"AVIF", "HEIF"} and max(size) > 1000
            yield Case(f"size-{size[0]}x{size[1]}-{kind}", partial(_of_size, kind, size), large)
    for name in ("jpeg-rgb", "png-rgb", "tiff-rgb-lzw", "webp-rgb", "avif-rgb"):
        for index in range(12):
            yield Case(f"icc-{index}-{name}", partial(_profile, name, index))
            yield Case(f"exif-{index}-{name}", partial(_exif, name, index))
    for name, data in _jpegs().items():
        yield Case(f"jpeg-{name}", data)
    for name, data in _tiffs().items():
        yield Case(f"tiff-{name}", data)
    for depth, colour in ((1, 0), (2, 0), (4, 0), (16, 0), (16, 2), (16, 4), (16, 6), (1, 3), (4, 3)):
        for interlace in (0, 1):
            make = partial(_png, depth, colour, interlace)
            yield Case(f"png-depth{depth}-colour{colour}-interlace{interlace}", make)


def _mode(name: str) -> bytes:
    return samples()[name].data


def _of_size(kind: str, size: tuple[int, int]) -> bytes:
    samples()  # registers HEIF
    return encode(Image.new("RGB", size, (200, 90, 30)), kind, **({"speed": 10} if kind == "AVIF" else {}))


def _profile(name: str, index: int) -> bytes:
    """Make a picture with a profile that is broken in the way of `index`."""
    draw = random.Random(index)
    profile = bytearray(swapped_profile())
    if index < 8:
        for _ in range(1 + index):
            profile[draw.randrange(len(profile))] ^= 1 << draw.randrange(8)
    data = bytes(profile)
    if index >= 8:
        data = [b"", b"\0" * 5000, data[: len(data) // 2], data + draw.randbytes(60_000)][index - 8]
    kind = name.split("-")[0].upper()
    return encode(SCENE, kind, icc_profile=data, **({"speed": 10} if kind == "AVIF" else {}))


def _exif(name: str, index: int) -> bytes:
    draw = random.Random(index)
    loops: list[Field] = [(274, SHORT, 1, 6), (0x8769, LONG, 1, 8), (0x8825, LONG, 1, 8)]
    many: list[Field] = [(274, RATIONAL, 3000, struct.pack("<6000I", *range(6000)))]
    bodies = [
        tiff_of(loops),
        tiff_of(many),
        tiff_of([(274, SHORT, 1, 99)]),
        tiff_of([(274, SHORT, 0xFFFFFFFF, 8)]),
        tiff_of([(274, 2, 4, b"six\0")]),
        tiff_of([(tag, RATIONAL, 1, bytes(8)) for tag in range(1, 900)]),
        b"II*\0" + b"\xff" * 60,
        b"",
        draw.randbytes(5000),
        tiff_of([(274, SHORT, 1, 6)])[:20],
        b"Exif\0\0" * 3 + tiff_of([(274, SHORT, 1, 6)]),
        struct.pack("<2sHI", b"II", 42, 0xFFFFFFFF) + bytes(30),
    ]
    exif = b"Exif\0\0" + bodies[index]
    kind = name.split("-")[0].upper()
    if kind == "JPEG":
        plain = encode(SCENE, "JPEG")
        return plain[:2] + segment(0xE1, exif) + plain[2:]
    if kind == "PNG":
        plain = encode(SCENE, "PNG")
        return plain[:33] + png_chunk(b"eXIf", exif[6:]) + plain[33:]
    if kind == "TIFF":
        return bodies[index]
    if kind == "WEBP":
        chunk = b"EXIF" + struct.pack("<I", len(exif)) + exif + b"\0" * (len(exif) & 1)
        plain = encode(
            SCENE, "WEBP", icc_profile=swapped_profile()
        )  # a profile makes Pillow write a VP8X chunk
        flagged = plain[:20] + bytes([plain[20] | 8]) + plain[21:] + chunk
        return flagged[:4] + struct.pack("<I", len(flagged) - 8) + flagged[8:]
    data = encode(SCENE, "AVIF", exif=tiff_of([(270, 2, 8, b"a\0bcdef\0")]), speed=10)
    return data.replace(b"a\0bcdef\0", draw.randbytes(8))


def _jpegs() -> dict[str, partial[bytes]]:
    def patched(marker: int, **options: object) -> bytes:
        data = bytearray(encode(SCENE, "JPEG", **options))
        data[data.index(b"\xff\xc0") + 1] = marker
        return bytes(data)

    def bits(count: int) -> bytes:
        data = bytearray(encode(SCENE, "JPEG"))
        data[data.index(b"\xff\xc0") + 4] = count
        return bytes(data)

    def height(value: int) -> bytes:
        data = bytearray(encode(SCENE, "JPEG"))
        at = data.index(b"\xff\xc0") + 5
        data[at : at + 2] = struct.pack(">H", value)
        return bytes(data)

    def adobe(transform: int) -> bytes:
        data = encode(SCENE.convert("CMYK"), "JPEG")
        at = data.find(b"Adobe")
        return data if at < 0 else data[: at + 11] + bytes([transform]) + data[at + 12 :]

    def restarted(count: int) -> bytes:
        data = encode(SCENE, "JPEG", restart_marker_blocks=1)
        return data.replace(b"\xff\xd0", b"\xff\xd5") if count else data

    return {
        **{f"sof-{marker:x}": partial(patched, marker) for marker in (0xC1, 0xC3, 0xC5, 0xC9, 0xCA, 0xCF)},
        **{f"{count}-bits": partial(bits, count) for count in (0, 2, 12, 16)},
        **{f"height-{value}": partial(height, value) for value in (0, 1, 65535)},
        **{f"cmyk-transform-{transform}": partial(adobe, transform) for transform in (0, 1, 2, 9)},
        "restarts": partial(restarted, 0),
        "wrong-restarts": partial(restarted, 1),
    }


def _tiffs() -> dict[str, partial[bytes]]:
    grey = bytes(range(256)) * 40  # 256 x 40

    def cyclic(sub: int) -> bytes:
        at = 8 + len(grey)
        fields = tiff_fields(256, 40, grey)
        return tiff_of([*fields, (330, LONG, 1, at)] if sub else fields, grey, following=at)

    def long_chain(count: int) -> bytes:
        fields, data = tiff_fields(256, 40, grey), grey
        for _ in range(count):
            at = 8 + len(data)
            size = len(ifd(fields, at))
            data += ifd(fields, at, at + size)
        return struct.pack("<2sHI", b"II", 42, 8 + len(grey)) + data

    def tiles(width: int, length: int) -> bytes:
        fields = [f for f in tiff_fields(64, 64, grey) if f[0] not in {273, 278, 279}]
        places = [(322, LONG, 1, width), (323, LONG, 1, length), (324, LONG, 1, 8), (325, LONG, 1, 4096)]
        return tiff_of([*fields, *places], grey)

    def compressed(kind: int) -> bytes:
        return tiff_of(tiff_fields(256, 40, grey, compression=kind), grey)

    def photometric(kind: int) -> bytes:
        return tiff_of(tiff_fields(256, 40, grey, photometric=kind), grey)

    def saved(compression: str, mode: str) -> bytes:
        return encode(SCENE.convert(mode), "TIFF", compression=compression)

    def big() -> bytes:
        buffer = io.BytesIO()
        SCENE.save(buffer, "TIFF", big_tiff=True)
        return buffer.getvalue()

    kinds = (2, 3, 4, 5, 6, 7, 8, 32773, 32946, 34676, 34712, 34887, 34892, 34925, 50000, 50001, 50002)
    names = ("tiff_deflate", "tiff_adobe_deflate", "packbits", "jpeg", "tiff_sgilog", "zstd", "lzma")
    return {
        "cyclic": partial(cyclic, 0),
        "cyclic-sub": partial(cyclic, 1),
        "chain": partial(long_chain, 500),
        **{f"tiles-{w}x{h}": partial(tiles, w, h) for w, h in ((16, 16), (0, 0), (60_000, 60_000), (7, 5))},
        **{f"compression-{kind}": partial(compressed, kind) for kind in kinds},
        **{f"photometric-{kind}": partial(photometric, kind) for kind in (0, 2, 3, 4, 5, 6, 8, 9, 32844)},
        **{f"saved-{name}": partial(saved, name, "RGB") for name in names if name != "tiff_sgilog"},
        "saved-group4": partial(saved, "group4", "1"),
        "saved-group3": partial(saved, "group3", "1"),
        "big": partial(big),
        "float64": partial(encode, Image.fromarray(np.ones((9, 9), np.float32)), "TIFF"),
        "lab-profile": partial(_lab_with_profile),
    }


def _lab_with_profile() -> bytes:
    lab = ImageCms.createProfile("LAB")
    image = ImageCms.profileToProfile(SCENE, ImageCms.createProfile("sRGB"), lab, outputMode="LAB")
    assert image is not None
    profile = bytearray(ImageCms.ImageCmsProfile(lab).tobytes())
    profile[24:36] = bytes(12)  # the date, so that the file is reproducible
    return encode(image, "TIFF", icc_profile=bytes(profile))


def _png(depth: int, colour: int, interlace: int) -> bytes:
    """Write a PNG of noise, with each filter in turn."""
    palette = png_chunk(b"PLTE", bytes(range(48))) if colour == 3 else b""
    channels = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}[colour]
    raw = b"".join(
        bytes([row % 5]) + random.Random(row).randbytes((37 * channels * depth + 7) // 8)
        for row in range(80)
    )
    return png_of(37, 41, depth, colour, raw, palette, interlace=interlace)
