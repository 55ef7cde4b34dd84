"""Read PNG transparency and gamma as browsers do, which Pillow does not.

Follows the PNG specification, third edition; where that leaves a choice, Chromium and Firefox.
"""

import io
import struct
from collections.abc import Callable
from typing import Any, Final

import numpy as np
from PIL import Image, ImageCms, ImageFile, PngImagePlugin

from contract.formats.guard import BoundedFile
from contract.formats.rebind import with_globals

_DEPTHS: Final = {
    "1": 1,
    "L;2": 2,
    "L;4": 4,
    "L": 8,
    "RGB": 8,
    "I;16B": 16,
    "RGB;16B": 16,
}  # bits per sample, by Pillow's raw mode
_MAX_TEXT: Final = 8_000_000  # characters; Python stores wide ones in four bytes each
_KEY_16BIT: Final = "transparency of 16 bits"
# x and y of white, red, green and blue, in the order of the chunk cHRM.
_SRGB: Final = (0.3127, 0.3290, 0.64, 0.33, 0.30, 0.60, 0.15, 0.06)
_D50: Final = np.array([0.9642, 1.0, 0.8249])
_BRADFORD: Final = np.array(
    [[0.8951, 0.2664, -0.1614], [-0.7502, 1.7135, 0.0367], [0.0389, -0.0685, 1.0296]]
)


def _counted(load: Callable[..., bytes]) -> Callable[..., bytes]:
    def counted(self: Any, pos: int, length: int) -> bytes:
        self.fp.count_compressed()
        return load(self, pos, length)

    return counted


def _read_transparency(self: Any, _pos: int, length: int) -> bytes:
    """Read the chunk tRNS; ignore it where it is misplaced, too short or too long."""
    chunk = ImageFile._safe_read(self.fp, length)
    if self.im_tile:  # it comes after the pixels
        return chunk
    if self.im_mode == "P":
        if self.im_palette and length <= 256:
            self.im_info["transparency"] = chunk
        return chunk
    depth = _DEPTHS.get(self.im_rawmode)
    samples = 3 if self.im_mode == "RGB" else 1
    if depth is None or length < 2 * samples:
        return chunk
    # Only the low bits count. Pillow scales samples of fewer than 8 bits to 8, so the key is scaled too.
    scale = 255 // (2**depth - 1) if depth < 8 else 1
    key = tuple((v & (2**depth - 1)) * scale for v in struct.unpack(f">{samples}H", chunk[: 2 * samples]))
    if self.im_rawmode == "RGB;16B":
        self.im_info[_KEY_16BIT] = key
    else:
        self.im_info["transparency"] = key if samples == 3 else key[0]
    return chunk


def _read_cicp(self: Any, _pos: int, length: int) -> bytes:
    self.im_info["cicp"] = chunk = ImageFile._safe_read(self.fp, length)
    return chunk


_PILLOW: Final = PngImagePlugin.PngStream
_CHUNK_READERS: Final = {  # in place of Pillow's
    "iCCP": _counted(_PILLOW.chunk_iCCP),
    "zTXt": _counted(_PILLOW.chunk_zTXt),
    "iTXt": _counted(_PILLOW.chunk_iTXt),
    "tRNS": _read_transparency,
    "cICP": _read_cicp,
}
_Stream: Final = type(
    "_Stream",
    (_PILLOW,),
    {
        "check_text_memory": with_globals(_PILLOW.check_text_memory, MAX_TEXT_MEMORY=_MAX_TEXT),
        **{f"chunk_{name}": read for name, read in _CHUNK_READERS.items()},
    },
)


class PngFile(PngImagePlugin.PngImageFile):
    """Read a PNG with our readers of chunks and our limit on text."""

    _open = with_globals(PngImagePlugin.PngImageFile._open, PngStream=_Stream)


def bytes_per_pixel(image: Image.Image, data: bytes) -> int:
    """Estimate the bytes per pixel that decoding takes: the larger of memory and time.

    Time counts as 8 bytes for each 3 bytes unpacked. Raises ValueError where IHDR is not the first chunk:
    the standard requires it, but Pillow accepts it later.
    """
    if data[12:16] != b"IHDR":
        raise ValueError("its first chunk is not IHDR")
    bits = data[24] * {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}.get(data[25], 4)
    unpacked = bits // 3 * (2 if has_16bit_key(image) else 1)
    return max(8 if profile(image.info) is None else 12, unpacked)


def has_16bit_key(image: Image.Image) -> bool:
    """Whether a 16-bit colour is transparent, so that the picture is decoded twice."""
    return _KEY_16BIT in image.info


def clear_16bit_key(image: Image.Image, data: bytes) -> None:
    """Paint pixels of the transparent 16-bit colour white, in place.

    `image` has only the upper byte of each sample, as Pillow reads it; the lower bytes are decoded from
    `data`.
    """
    lower: Any = PngFile(BoundedFile(data, "PNG"))
    lower.tile = [tile._replace(args="RGB;16L") for tile in lower.tile]
    key = np.array(image.info[_KEY_16BIT])
    rows = max(1, 1_000_000 // image.width)
    for top in range(0, image.height, rows):
        box = (0, top, image.width, min(top + rows, image.height))
        high, low = (np.asarray(part.crop(box)) for part in (image, lower))
        clear = ((high == key >> 8) & (low == key & 255)).all(2)
        image.paste("white", box, Image.fromarray(clear))


def profile(info: dict[Any, Any]) -> bytes | None:
    """Build an RGB ICC profile from the chunks gAMA and cHRM.

    None where the colours count as sRGB: without gAMA, with a gamma and primaries near those of sRGB, and
    where the chunk sRGB or cICP takes precedence.
    """
    gamma = info.get("gamma", 0.0)
    if gamma <= 0 or "srgb" in info or "cicp" in info:
        return None
    colours = info.get("chromaticity", _SRGB)
    is_srgb = all(abs(x - y) < 0.005 for x, y in zip(colours, _SRGB, strict=True))
    colorants = None if is_srgb else _colorants(colours)
    if colorants is None:
        if abs(2.2 * gamma - 1) <= 0.05:
            return None
        colorants = _colorants(_SRGB)
    curve = b"para\0\0\0\0" + struct.pack(">HHi", 0, 0, round(65536 * min(1 / gamma, 32767)))
    tags = {b"wtpt": _xyz(_D50), b"rTRC": curve, b"gTRC": curve, b"bTRC": curve}
    return _icc(tags | {name: _xyz(colorants[:, n]) for n, name in enumerate(_XYZ)})


def in_srgb(image: Image.Image, info: dict[Any, Any]) -> tuple[Image.Image, bytes | None]:
    """Apply gAMA and cHRM to a picture with transparency, before it is laid over white, as browsers do.

    Return the picture, and the profile that is still to be applied: that of an opaque picture.
    """
    gamma_profile = profile(info)
    if gamma_profile is None or image.mode not in {"LA", "RGBA", "P"} or not image.has_transparency_data:
        return image, gamma_profile
    rgba = image if image.mode == "RGBA" else image.convert("RGBA")
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(gamma_profile))
        transform = ImageCms.buildTransform(source, ImageCms.createProfile("sRGB"), "RGBA", "RGBA")
    except ImageCms.PyCMSError:  # lcms2 refuses an extreme gamma; it is ignored
        return rgba, None
    ImageCms.applyTransform(rgba, transform, inPlace=True)
    return rgba, None


_XYZ: Final = (b"rXYZ", b"gXYZ", b"bXYZ")


def _colorants(chromaticity: tuple[float, ...]) -> Any:
    """Return (3, 3) XYZ of red, green and blue in columns, adapted to D50; None if degenerate."""
    points = np.reshape(chromaticity, (4, 2))
    if points[:, 1].min() <= 0:
        return None
    xyz = np.stack([points[:, 0], points[:, 1], 1 - points.sum(1)]) / points[:, 1]
    white, primaries = xyz[:, 0], xyz[:, 1:]
    cone = _BRADFORD @ white
    if abs(np.linalg.det(primaries)) < 1e-3 or np.abs(cone).min() < 1e-3:
        return None
    adapt = np.linalg.inv(_BRADFORD) @ np.diag(_BRADFORD @ _D50 / cone) @ _BRADFORD
    colorants = adapt @ primaries * np.linalg.solve(primaries, white)
    return colorants if np.abs(colorants).max() < 32767 else None


def _xyz(values: Any) -> bytes:
    return b"XYZ \0\0\0\0" + struct.pack(">3i", *(round(65536 * v) for v in values))


def _icc(tags: dict[bytes, bytes]) -> bytes:
    """Build a display profile, version 4 (ICC.1:2010). Tags must be multiples of 4 bytes."""
    table, body = struct.pack(">I", len(tags)), b""
    for name, tag in tags.items():
        table += struct.pack(">4sII", name, 132 + 12 * len(tags) + len(body), len(tag))
        body += tag
    size = 128 + len(table) + len(body)
    head = struct.pack(">I4sI4s4s4s12x4s", size, b"", 0x04200000, b"mntr", b"RGB ", b"XYZ ", b"acsp")
    head = head.ljust(68, b"\0") + struct.pack(">3i", 63190, 65536, 54061)
    return head.ljust(128, b"\0") + table + body
