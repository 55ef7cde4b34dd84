"""Provide photographs to send: from a folder, or drawn ones that cost as much as real ones."""

import io
from pathlib import Path

import numpy as np
from PIL import Image

SMALL, LARGE = (500, 375), (4000, 3000)


def draw_photographs(folder: Path, count: int, size: tuple[int, int]) -> list[Path]:
    """Write `count` reproducible JPEG files: 500x375 with about 101 kB, or 4000x3000 with 3.5 MB.

    The cost of decoding depends on bytes as well as on pixels, and smooth colours would be too cheap. So
    the pictures have blobs of different sizes and noise like that of a sensor.
    """
    files = []
    for seed in range(count):
        path = folder / f"{size[0]}x{size[1]}-{seed:03}.jpg"
        path.write_bytes(_jpeg(seed, size))
        files.append(path)
    return files


def _jpeg(seed: int, size: tuple[int, int]) -> bytes:
    random = np.random.default_rng(seed)
    picture = np.zeros((size[1], size[0], 3), np.float32)
    for cells in (4, 16, 64):
        blobs = random.integers(0, 256, (cells * 3 // 4, cells, 3), dtype=np.uint8)
        picture += np.asarray(Image.fromarray(blobs).resize(size, Image.Resampling.BICUBIC)) / 3
    grain = 16.0 if size == SMALL else 6.0
    picture += random.normal(0, grain, picture.shape[:2])[..., None]
    buffer = io.BytesIO()
    image = Image.fromarray(picture.clip(0, 255).astype(np.uint8))
    image.save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


def find_photographs(folder: Path, max_files: int = 256) -> list[Path]:
    """Return up to `max_files` JPEG files below the folder, spread evenly over their sorted names."""
    files = sorted(path for path in folder.rglob("*") if path.suffix.lower() in {".jpg", ".jpeg"})
    if not files:
        raise SystemExit(f"error: no .jpg or .jpeg below {folder}")
    return files[:: max(1, len(files) // max_files)][:max_files]
