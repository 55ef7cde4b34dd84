"""Make intact files of kinds that were once refused or read wrongly, and similar ones.

All must be decoded; tests/contract checks the pixels.
"""

import random
import struct
from collections.abc import Callable, Iterator
from functools import partial

import numpy as np
from PIL import Image

from tests.corpus.bitmaps import bmp_of, short_runs
from tests.corpus.case import PIXELS, Case
from tests.corpus.files import png_of
from tests.support.drawing.canvas import gif_on_canvas, webp_on_canvas
from tests.support.drawing.pictures import encode, png_chunk
from tests.support.drawing.samples import ALPHA, SCENE
from tests.support.drawing.tiffs import tiff_of_layout

_RGB = np.asarray(SCENE)
_GREY, _OPACITY = _RGB[..., 1:2], np.asarray(ALPHA)[..., None]
_BOX = (16, 8, 48, 40)


def cases() -> Iterator[Case]:
    for name, make in _MAKERS.items():
        yield Case(f"kind-{name}", make, expected=PIXELS)
    for width, height in ((8160, 6144), (8192, 6144), (9248, 6936)):
        for mode in ("baseline", "progressive"):
            make = partial(_phone_photograph, width, height, mode == "progressive")
            yield Case(f"kind-jpeg-{width}x{height}-{mode}", make, large=True, expected=PIXELS)


def _phone_photograph(width: int, height: int, progressive: bool) -> bytes:
    return encode(Image.new("RGB", (width, height), (90, 120, 60)), "JPEG", progressive=progressive)


def _motion_photo(progressive: bool) -> bytes:
    film = b"\0\0\0\x18ftypmp42\0\0\0\0mp42isom" + struct.pack(">I", 3 << 20) + b"mdat"
    still = encode(SCENE, "JPEG", progressive=progressive)
    return still + film + random.Random(1).randbytes(3 << 20)


def _png(depth: int, colour: int, *chunks: bytes) -> bytes:
    channels = {0: 1, 2: 3, 3: 1}[colour]
    row = b"\0" + random.Random(depth).randbytes(64 * depth * channels // 8)
    palette = [png_chunk(b"PLTE", bytes(768))] if colour == 3 else []
    return png_of(64, 64, depth, colour, row * 64, *palette, *chunks)


def _key(colour: int) -> bytes:
    return png_chunk(b"tRNS", {0: b"\0\1", 2: b"\0\1" * 3, 3: bytes(16)}[colour])


def _gamma(value: float) -> bytes:
    return png_chunk(b"gAMA", struct.pack(">I", round(100_000 * value)))


def _tiff(samples: str, depth: int, **options: bool | int) -> bytes:
    pixels, photometric = {
        "grey": (_GREY, 1),
        "grey-white-is-zero": (_GREY, 0),
        "grey-alpha": (np.concatenate([_GREY, _OPACITY], 2), 1),
        "rgb": (_RGB, 2),
        "rgb-alpha": (np.concatenate([_RGB, _OPACITY], 2), 2),
        "cmyk": (np.concatenate([_RGB, _GREY], 2), 5),
    }[samples]
    alpha = [(338, 3, [2])] if samples.endswith("alpha") else []
    wide = pixels.astype(np.uint16) * 257 if depth == 16 else pixels
    return tiff_of_layout(wide, photometric, *alpha, **options)  # type: ignore[arg-type]


def _empty_alpha(header: int) -> bytes:
    masks = struct.pack("<4I", 0xFF0000, 0xFF00, 0xFF, 0xFF000000)
    return bmp_of(64, 64, 32, 3, bytes([30, 90, 200, 0]) * 4096, masks, header)


_XMP = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:Description tiff:Orientation="6"/></x:xmpmeta>'
_MAKERS: dict[str, Callable[[], bytes]] = {
    "jpeg-film": partial(_motion_photo, False),
    "jpeg-film-progressive": partial(_motion_photo, True),
    **{
        f"png-key-depth{depth}-colour{colour}": partial(_png, depth, colour, _key(colour))
        for depth, colour in ((1, 0), (2, 0), (4, 0), (8, 0), (16, 0), (8, 2), (16, 2), (4, 3), (8, 3))
    },
    **{f"png-gamma-{value}": partial(_png, 8, 2, _gamma(value)) for value in (0.45455, 0.55556, 1.0)},
    **{
        f"tiff-{samples}{depth}-{'-'.join(options) or 'plain'}": partial(_tiff, samples, depth, **options)
        for samples in ("grey", "grey-white-is-zero", "grey-alpha", "rgb", "rgb-alpha", "cmyk")
        for depth in (8, 16)
        for options in (
            *({}, {"tile": 64}, {"big": True}, {"reversed_bits": True}, {"planar": True}),
            {"deflated": True, "predictor": True},
        )
        if not (samples == "grey-alpha" and "planar" in options)
    },
    "bmp-short-runs": lambda: short_runs(np.tile(_RGB[..., 0], (3, 3)), grey=True),
    **{f"bmp-alpha-of-nothing-{header}": partial(_empty_alpha, header) for header in (56, 108, 124)},
    "gif-small-first-frame": partial(gif_on_canvas, (64, 48), _BOX, 3, None, 2),
    "webp-small-first-frame": partial(webp_on_canvas, (64, 48), _BOX, (200, 30, 60)),
    **{
        f"{kind.lower()}-orientation-of-xmp": partial(encode, SCENE, kind, xmp=_XMP)
        for kind in ("JPEG", "WEBP", "AVIF")
    },
}
