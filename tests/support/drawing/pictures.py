"""Draw pictures, and write them in formats that Pillow reads but cannot write."""

import io
import struct
import zlib
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageCms

Array = NDArray[Any]
Order = Literal["<", ">"]
CORNERS = {"red": (225, 30, 30), "green": (20, 180, 40), "blue": (30, 50, 220), "yellow": (240, 225, 20)}


def scene(width: int = 400, height: int = 320, seed: int = 0) -> Image.Image:
    """Draw smooth colours, with red, green, blue and yellow in the corners, row by row."""
    coarse = np.random.default_rng(seed).integers(40, 216, (5, 6, 3), dtype=np.uint8)
    image = Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)
    w, h = width // 4, height // 4
    for index, colour in enumerate(CORNERS.values()):
        x, y = (index % 2) * (width - w), (index // 2) * (height - h)
        image.paste(colour, (x, y, x + w, y + h))
    return image


def encode(image: Image.Image, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def orientation_tag(value: int) -> bytes:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = value
    return exif.tobytes()


# By EXIF orientation: how an upright picture is transposed before it is stored.
STORED = {
    1: None,
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}


def stored(image: Image.Image, orientation: int) -> Image.Image:
    """Transpose an upright picture as it is stored under an EXIF orientation."""
    transpose = STORED[orientation]
    return image if transpose is None else image.transpose(transpose)


def png(pixels: Array, colour_type: int, *chunks: tuple[bytes, bytes]) -> bytes:
    """Write a PNG of 8 or 16 bits, as the array has.

    Colour types: 0 grey, 2 RGB, 4 grey and alpha, 6 RGB and alpha.
    """
    height, width = pixels.shape[:2]
    depth = pixels.dtype.itemsize * 8
    rows = pixels.astype(pixels.dtype.newbyteorder(">")).reshape(height, -1)
    data = b"".join(b"\0" + row.tobytes() for row in rows)
    header = struct.pack(">IIBBBBB", width, height, depth, colour_type, 0, 0, 0)
    parts = [(b"IHDR", header), *chunks, (b"IDAT", zlib.compress(data)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(png_chunk(name, body) for name, body in parts)


def png_chunk(name: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))


def tiff(pixels: Array, photometric: int, order: Order = "<", extra: dict[int, int] | None = None) -> bytes:
    """Write an uncompressed TIFF with one strip and the further tags `extra`, in byte order `order`."""
    height, width = pixels.shape[:2]
    samples = pixels.shape[2] if pixels.ndim == 3 else 1
    data = pixels.astype(pixels.dtype.newbyteorder(order)).tobytes()
    depths = struct.pack(f"{order}{samples}H", *[pixels.dtype.itemsize * 8] * samples)
    tags = {256: width, 257: height, 259: 1, 262: photometric, 273: 8, 277: samples, 278: height}
    tags |= {279: len(data), **(extra or {})}
    tags[258] = pixels.dtype.itemsize * 8 if samples == 1 else 8 + len(data)
    entries = b""
    for tag, value in sorted(tags.items()):
        if tag == 258 and samples > 1:
            is_offset = samples * 2 > 4
            field = struct.pack(f"{order}I", value) if is_offset else depths.ljust(4, b"\0")
            entries += struct.pack(f"{order}HHI", tag, 3, samples) + field
        else:
            entries += struct.pack(f"{order}HHII", tag, 4, 1, value)
    offset = 8 + len(data) + len(depths)
    head = (b"II" if order == "<" else b"MM") + struct.pack(f"{order}HI", 42, offset)
    return head + data + depths + struct.pack(f"{order}H", len(tags)) + entries + b"\0\0\0\0"


def swapped_profile() -> bytes:
    """Return an sRGB profile with red and blue primaries exchanged, which exchanges them in a picture."""
    profile = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    profile[24:36] = struct.pack(
        ">6H", 2020, 1, 1, 0, 0, 0
    )  # a fixed date, so that the profile is reproducible
    count = int.from_bytes(profile[128:132], "big")
    exchange = {b"rXYZ": b"bXYZ", b"bXYZ": b"rXYZ"}
    for at in range(132, 132 + 12 * count, 12):
        profile[at : at + 4] = exchange.get(bytes(profile[at : at + 4]), profile[at : at + 4])
    return bytes(profile)


def linear_grey_profile() -> bytes:
    """Return a grey profile whose values are proportional to light (ICC.1:2001)."""
    white = b"XYZ \0\0\0\0" + struct.pack(">3i", 63190, 65536, 54061)  # D50
    curve = b"curv\0\0\0\0" + struct.pack(">I", 0)  # no entries: the identity
    tags = struct.pack(">I", 2)
    tags += struct.pack(">4sII", b"wtpt", 156, len(white))
    tags += struct.pack(">4sII", b"kTRC", 156 + len(white), len(curve))
    size = 128 + len(tags) + len(white) + len(curve)
    header = struct.pack(">I4sI4s4s4s", size, b"\0\0\0\0", 0x02100000, b"mntr", b"GRAY", b"XYZ ")
    header += struct.pack(">6H", 2020, 1, 1, 0, 0, 0) + b"acsp"
    header = header.ljust(68, b"\0") + struct.pack(">3i", 63190, 65536, 54061)
    return header.ljust(128, b"\0") + tags + white + curve


def swap_red_and_blue(image: Image.Image) -> Image.Image:
    red, green, blue = image.split()[:3]
    return Image.merge("RGB", (blue, green, red))


def draw_classes(
    root: Path, classes: dict[str, tuple[int, int, int]], count: int, size: int = 80, first: int = 0
) -> Path:
    """Write `count` slightly different pictures per class to its folder below `root`."""
    for number, (name, colour) in enumerate(classes.items()):
        (root / name).mkdir(parents=True, exist_ok=True)
        for index in range(first, first + count):
            draw = np.random.default_rng([number, index])
            noise = draw.integers(-40, 41, (4, 4, 3)) + draw.integers(-20, 21, 3)
            pixels = (np.array(colour) + noise).clip(0, 255).astype(np.uint8)
            image = Image.fromarray(pixels).resize((size, size), Image.Resampling.BICUBIC)
            image.save(root / name / f"{index:03d}.png")
    return root
