"""Provide a small file of every format and mode, with the upright sRGB picture that it shows."""

import io
import struct
from dataclasses import dataclass
from functools import cache

import numpy as np
import pillow_heif
from PIL import Image, ImageCms

from tests.support.drawing.pictures import (
    encode,
    linear_grey_profile,
    orientation_tag,
    png,
    scene,
    stored,
    swap_red_and_blue,
    swapped_profile,
    tiff,
)

SCENE = scene()
GREY = SCENE.convert("L")
WHITE = Image.new("RGB", SCENE.size, "white")
# From transparent at the left to opaque at the right.
ALPHA = Image.fromarray(np.tile(np.linspace(0, 255, SCENE.width).astype(np.uint8), (SCENE.height, 1)))
OVER_WHITE = Image.composite(SCENE, WHITE, ALPHA)
HOLE = (150, 120, 250, 200)


@dataclass(frozen=True)
class Sample:
    """A file and the picture that it shows.

    The crop may differ from Pillow's crop of `expected` by one level; or by `mean` levels on average, where
    the file is lossy or its colours are converted after resizing.
    """

    data: bytes
    expected: Image.Image
    mean: float | None = None


@cache
def samples() -> dict[str, Sample]:
    return _jpeg() | _png() | _tiff() | _others()


def _jpeg() -> dict[str, Sample]:
    fine = {"quality": 95, "subsampling": 0}
    turned = encode(stored(SCENE, 6), "JPEG", exif=orientation_tag(6), **fine)
    swapped = encode(swap_red_and_blue(SCENE), "JPEG", icc_profile=swapped_profile(), **fine)
    return {
        "jpeg-rgb": _lossy("JPEG"),
        "jpeg-progressive": _lossy("JPEG", progressive=True),
        "jpeg-grey": _lossy("JPEG", GREY),
        "jpeg-cmyk": Sample(encode(SCENE.convert("CMYK"), "JPEG", **fine), SCENE, mean=0.5),
        "jpeg-exif": Sample(turned, SCENE, mean=1.0),
        "jpeg-mpo": Sample(_animation("MPO", SCENE, **fine), SCENE, mean=1.0),
        "jpeg-icc": Sample(swapped, SCENE, mean=1.0),
        "jpeg-icc-of-another-mode": _lossy("JPEG", GREY, icc_profile=swapped_profile()),
        "jpeg-icc-broken": _lossy("JPEG", icc_profile=b"no profile at all"),
    }


def _png() -> dict[str, Sample]:
    bits, palette, swapped = GREY.convert("1"), SCENE.quantize(64), swap_red_and_blue(SCENE)
    grey, rgb = np.asarray(GREY), np.asarray(SCENE)
    grey16, rgb16 = (x.astype(np.uint16) * 257 for x in (grey, rgb))
    alpha, alpha16 = (x[..., None] for x in (np.asarray(ALPHA), np.asarray(ALPHA).astype(np.uint16) * 257))
    clear, punched = _palette_with_hole()
    with_hole, hole_seen = SCENE.copy(), SCENE.copy()
    with_hole.paste((1, 2, 3), HOLE)
    hole_seen.paste("white", HOLE)
    grey_hole, grey_hole_seen = GREY.copy(), GREY.copy()
    grey_hole.paste(3, HOLE)
    grey_hole_seen.paste(255, HOLE)
    hole16 = np.asarray(grey_hole).astype(np.uint16) * 257
    grey_over_white = Image.composite(GREY, WHITE.convert("L"), ALPHA)
    rgba = Image.merge("RGBA", (*SCENE.split(), ALPHA))
    rgba_swapped = Image.merge("RGBA", (*swapped.split(), ALPHA))
    profile = {"icc_profile": swapped_profile()}
    return {
        "png-1": Sample(encode(bits, "PNG"), bits),
        "png-grey": Sample(encode(GREY, "PNG"), GREY),
        "png-grey-key": Sample(encode(grey_hole, "PNG", transparency=3), grey_hole_seen),
        "png-grey-alpha": Sample(encode(Image.merge("LA", (GREY, ALPHA)), "PNG"), grey_over_white),
        "png-grey-icc": Sample(
            encode(_linear(GREY), "PNG", icc_profile=linear_grey_profile()), GREY, mean=1.0
        ),
        "png-palette": Sample(encode(palette, "PNG"), palette),
        "png-palette-key": Sample(encode(clear, "PNG", transparency=201), punched),
        "png-grey-alpha-icc": Sample(
            encode(
                Image.merge("LA", [_linear(GREY), Image.new("L", GREY.size, 255)]),
                "PNG",
                icc_profile=linear_grey_profile(),
            ),
            GREY,
            mean=1.0,
        ),
        "png-palette-icc": Sample(
            encode(swap_red_and_blue(palette.convert("RGB")).quantize(64), "PNG", **profile),
            palette,
            mean=1.0,
        ),
        "png-rgb": Sample(encode(SCENE, "PNG"), SCENE),
        "png-rgb-key": Sample(encode(with_hole, "PNG", transparency=(1, 2, 3)), hole_seen),
        "png-rgb-icc": Sample(encode(swapped, "PNG", **profile), SCENE),
        "png-rgb-exif": Sample(encode(stored(SCENE, 8), "PNG", exif=orientation_tag(8)), SCENE),
        "png-rgba": Sample(encode(rgba, "PNG"), OVER_WHITE),
        "png-rgba-icc": Sample(encode(rgba_swapped, "PNG", **profile), OVER_WHITE),
        "png-animated": Sample(_animation("PNG", SCENE), SCENE),
        "png-grey16": Sample(png(grey16, 0), GREY),
        "png-grey16-key": Sample(png(hole16, 0, (b"tRNS", struct.pack(">H", 771))), grey_hole_seen),
        "png-grey16-alpha": Sample(
            png(np.concatenate([grey16[..., None], alpha16], 2), 4), grey_over_white
        ),
        "png-rgb16": Sample(png(rgb16, 2), SCENE),
        "png-rgba16": Sample(png(np.concatenate([rgb16, alpha16], 2), 6), OVER_WHITE),
        "png-rgba8-by-hand": Sample(png(np.concatenate([rgb, alpha], 2), 6), OVER_WHITE),
    }


def _tiff() -> dict[str, Sample]:
    grey, rgb = np.asarray(GREY), np.asarray(SCENE)
    grey16, rgb16 = (x.astype(np.uint16) * 257 for x in (grey, rgb))
    bits, cmyk = GREY.convert("1"), SCENE.convert("CMYK")
    rgba = Image.merge("RGBA", (*SCENE.split(), ALPHA))
    srgb, lab = ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB")
    as_lab = ImageCms.profileToProfile(SCENE, srgb, lab, outputMode="LAB")
    assert as_lab is not None
    return {
        "tiff-1": Sample(encode(bits, "TIFF"), bits),
        "tiff-grey": Sample(tiff(grey, 1), GREY),
        "tiff-grey-white-is-zero": Sample(tiff(255 - grey, 0), GREY),
        "tiff-grey16-little": Sample(tiff(grey16, 1, "<"), GREY),
        "tiff-grey16-big": Sample(tiff(grey16, 1, ">"), GREY),
        "tiff-grey16-white-is-zero": Sample(tiff(65535 - grey16, 0), GREY),
        "tiff-palette": Sample(encode(SCENE.quantize(64), "TIFF"), SCENE.quantize(64)),
        "tiff-rgb-little": Sample(tiff(rgb, 2, "<"), SCENE),
        "tiff-rgb-big": Sample(tiff(rgb, 2, ">"), SCENE),
        "tiff-rgb16-little": Sample(tiff(rgb16, 2, "<"), SCENE),
        "tiff-rgb16-big": Sample(tiff(rgb16, 2, ">"), SCENE),
        "tiff-rgb-lzw": Sample(encode(SCENE, "TIFF", compression="tiff_lzw"), SCENE),
        "tiff-rgb-turned": Sample(tiff(np.asarray(stored(SCENE, 6)), 2, extra={274: 6}), SCENE),
        "tiff-rgba": Sample(encode(rgba, "TIFF"), OVER_WHITE),
        "tiff-cmyk": Sample(encode(cmyk, "TIFF"), SCENE, mean=1.0),
        "tiff-lab": Sample(encode(as_lab, "TIFF"), SCENE, mean=1.5),
        "tiff-pages": Sample(_animation("TIFF", SCENE), SCENE),
    }


def _others() -> dict[str, Sample]:
    pillow_heif.register_heif_opener(thumbnails=False)
    palette, rgba = SCENE.quantize(64), Image.merge("RGBA", (*SCENE.split(), ALPHA))
    clear, punched = _palette_with_hole()
    swapped, profile = swap_red_and_blue(SCENE), swapped_profile()
    turned = encode(stored(SCENE, 6), "AVIF", quality=95, speed=10, exif=orientation_tag(6))
    return {
        "gif": Sample(encode(palette, "GIF"), palette),
        "gif-key": Sample(encode(clear, "GIF", transparency=201), punched),
        "gif-animated": Sample(_animation("GIF", palette), palette),
        "bmp-1": Sample(encode(GREY.convert("1"), "BMP"), GREY.convert("1")),
        "bmp-grey": Sample(encode(GREY, "BMP"), GREY),
        "bmp-palette": Sample(encode(palette, "BMP"), palette),
        "bmp-rgb": Sample(encode(SCENE, "BMP"), SCENE),
        "webp-rgb": Sample(encode(SCENE, "WEBP", lossless=True), SCENE),
        "webp-lossy": _lossy("WEBP"),
        "webp-rgba": Sample(encode(rgba, "WEBP", lossless=True, exact=True), OVER_WHITE),
        "webp-icc": Sample(encode(swapped, "WEBP", lossless=True, icc_profile=profile), SCENE),
        "webp-exif": Sample(
            encode(stored(SCENE, 5), "WEBP", lossless=True, exif=orientation_tag(5)), SCENE
        ),
        "webp-animated": Sample(_animation("WEBP", SCENE, lossless=True), SCENE),
        "avif-rgb": _lossy("AVIF", speed=10),
        "avif-rgba": Sample(encode(rgba, "AVIF", quality=95, speed=10), OVER_WHITE, mean=1.5),
        "avif-icc": Sample(
            encode(swapped, "AVIF", quality=95, speed=10, icc_profile=profile), SCENE, mean=1.5
        ),
        "avif-exif": Sample(turned, SCENE, mean=1.5),
        "heif-rgb": _lossy("HEIF"),
        "heif-exif": Sample(
            encode(stored(SCENE, 6), "HEIF", quality=95, exif=orientation_tag(6)), SCENE, mean=1.5
        ),
    }


def _lossy(kind: str, image: Image.Image = SCENE, **options: object) -> Sample:
    """Make a lossy sample; `expected` is what Pillow decodes, so that the loss itself does not count."""
    data = encode(image, kind, **options)
    return Sample(data, Image.open(io.BytesIO(data)))


def _palette_with_hole() -> tuple[Image.Image, Image.Image]:
    """Return a palette picture to be saved with transparent colour 201, and what it then shows."""
    clear = SCENE.quantize(200)
    clear.putpalette([*(clear.getpalette() or []), *[9] * 6])
    punched = clear.convert("RGB")
    clear.paste(201, HOLE)
    punched.paste("white", HOLE)
    return clear, punched


def _animation(kind: str, first: Image.Image, **options: object) -> bytes:
    others = [Image.new("RGB", first.size, "black"), Image.new("RGB", first.size, "white")]
    return encode(first, kind, save_all=True, append_images=others, **options)


def _linear(grey: Image.Image) -> Image.Image:
    """Convert sRGB grey levels to levels proportional to light."""
    v = np.asarray(grey) / 255
    light = np.where(v <= 0.04045, v / 12.92, ((v + 0.055) / 1.055) ** 2.4)
    return Image.fromarray(np.rint(light * 255).astype(np.uint8))
