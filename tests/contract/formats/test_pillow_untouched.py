"""Test that importing and using the contract changes nothing in Pillow, and still limits decoding."""

import json
import struct
import subprocess
import sys

import pytest

from contract.picture import read_header
from contract.recipe import DEFAULT_RECIPE
from tests.corpus import cases
from tests.support.checkout import ROOT
from tests.support.drawing.pictures import encode, png_chunk, scene
from tests.support.drawing.samples import samples

BOMBS = {
    "bomb-png-ztxt-too-many": "text chunks",
    "bomb-avif-exif": "2000000 values",
    "bomb-tiff-rationals": "2000000 values",
    "bomb-bmp-rle-steps": "sequences of runs",
}

# Decodes the files named on its command line, and checks that Pillow is unchanged.
CLIENT = """
import json, sys
from pathlib import Path
from PIL import Image, JpegImagePlugin, PngImagePlugin, TiffImagePlugin

Image.init()  # as the first Image.open() may

def state():
    tags = TiffImagePlugin.ImageFileDirectory_v2
    tables = [
        *(vars(Image)[name] for name in ("OPEN", "MIME", "SAVE", "EXTENSION", "DECODERS", "ENCODERS")),
        *(vars(plugin) for plugin in (Image, JpegImagePlugin, PngImagePlugin, TiffImagePlugin)),
        *(JpegImagePlugin.MARKER, TiffImagePlugin.OPEN_INFO, vars(PngImagePlugin.PngStream)),
        *(vars(tags), tags._load_dispatch, vars(Image.Exif)),
        *(vars(TiffImagePlugin.TiffImageFile), vars(PngImagePlugin.PngImageFile)),
    ]
    return [dict(table) for table in tables], list(Image.ID)

before = state()
import contract.picture, contract.preprocess
from contract.recipe import DEFAULT_RECIPE
assert state() == before, "by the import"

outcomes = {}
for name in sys.argv[1:]:
    try:
        picture = contract.picture.decode(Path(name).read_bytes(), DEFAULT_RECIPE, 10**7)
        contract.preprocess.centre_crop(picture, DEFAULT_RECIPE)
        outcomes[Path(name).name] = "decoded"
    except contract.picture.ImageError as error:
        outcomes[Path(name).name] = f"{type(error).__name__}: {error}"
assert state() == before, "by decoding"
print(json.dumps(outcomes))
"""


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Decode bombs and intact pictures in a fresh interpreter; return the outcome by name."""
    folder = tmp_path_factory.mktemp("pictures")
    makers = {case.name: case.make for case in cases()}
    files = {name: makers[name]() for name in BOMBS} | {name: s.data for name, s in samples().items()}
    files["too-large"] = encode(scene(4000, 2501), "JPEG")
    for name, data in files.items():
        (folder / name).write_bytes(data)
    command = [sys.executable, "-c", CLIENT, *(str(folder / name) for name in files)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    results: dict[str, str] = json.loads(done.stdout)
    return results


def test_intact_pictures_of_every_format_are_decoded(outcomes: dict[str, str]) -> None:
    assert {name: outcomes[name] for name in samples()} == dict.fromkeys(samples(), "decoded")


@pytest.mark.parametrize(("name", "words"), list(BOMBS.items()))
def test_bomb_is_refused(outcomes: dict[str, str], name: str, words: str) -> None:
    assert outcomes[name].startswith("InvalidImage: ")
    assert words in outcomes[name]


def test_too_many_pixels_raise_the_error(outcomes: dict[str, str]) -> None:
    assert outcomes["too-large"] == (
        "TooManyPixels: the image has 4000x2501 = 10004000 pixels; the limit is 10000000"
    )


@pytest.mark.parametrize("kind", ["PNG", "GIF"])
def test_max_pixels_replaces_the_limit_of_pillow(kind: str) -> None:
    """Pillow warns from 89 million pixels on, and refuses twice as many."""
    data = encode(scene(8, 8), kind)
    if kind == "PNG":
        header = struct.pack(">II", 20_000, 20_000) + data[24:29]
        data = data[:8] + png_chunk(b"IHDR", header) + data[33:]
    else:
        data = data[:6] + struct.pack("<HH", 20_000, 20_000) + data[10:]
    header_read = read_header(data, DEFAULT_RECIPE, 10**9)
    assert (header_read.width, header_read.height) == (20_000, 20_000)
