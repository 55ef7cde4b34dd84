"""Determine the licences of the packages in the service image, and write docs/licences.md.

A package names its licence in up to three ways; here it becomes one SPDX expression. A test refuses
licences that are not in ALLOWED, so that no copyleft package is added unnoticed.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

ALLOWED: Final = {
    *("0BSD", "Apache-2.0", "BSD-2-Clause", "BSD-3-Clause", "CC0-1.0", "MIT", "MIT-CMU", "PSF-2.0", "Zlib"),
}
# Packages that may have another licence, and the reason.
EXCEPTIONS: Final = {
    "certifi": (
        "MPL-2.0",
        "a list of certificates. The licence requires that changes of the list itself be distributed too",
    ),
    "pillow-heif": (
        "GPL-2.0-or-later",
        "its code is BSD-3-Clause; its wheel contains x265 (GPL-2.0-or-later), libheif and libde265 "
        "(LGPL-3.0-or-later). Distributing an image with `EXTRAS=heif` means distributing GPL software",
    ),
    **dict.fromkeys(
        (
            *("nvidia-cublas", "nvidia-cuda-nvrtc", "nvidia-cuda-runtime", "nvidia-cudnn-cu13"),
            *("nvidia-cufft", "nvidia-curand", "nvidia-nvjitlink", "nvidia-nvjpeg"),
        ),
        (
            "LicenseRef-NVIDIA-Proprietary",
            "NVIDIA's terms, not open source: read them before distributing an image",
        ),
    ),
}
# Shared libraries in the Linux wheels, by the licence texts in the same wheels.
BUNDLED: Final = {
    "numpy": {
        "gfortran": "GPL-3.0-or-later WITH GCC-exception-3.1",
        "quadmath": "LGPL-2.1-or-later",
        "scipy_openblas64_": "BSD-3-Clause AND BSD-3-Clause-Open-MPI",
    },
    "pillow": {
        "Xau": "MIT-open-group",
        "avif": "BSD-2-Clause",
        "brotlicommon": "MIT",
        "brotlidec": "MIT",
        "freetype": "FTL OR GPL-2.0-only",
        "harfbuzz": "MIT-Modern-Variant",
        "jpeg": "IJG AND BSD-3-Clause AND Zlib",
        "lcms2": "MIT",
        "lzma": "0BSD",
        "openjp2": "BSD-2-Clause",
        "png16": "libpng-2.0",
        "sharpyuv": "BSD-3-Clause",
        "tiff": "libtiff",
        "webp": "BSD-3-Clause",
        "webpdemux": "BSD-3-Clause",
        "webpmux": "BSD-3-Clause",
        "xcb": "X11",
        "zstd": "BSD-3-Clause OR GPL-2.0-only",
    },
    "pillow-heif": {
        "de265": "LGPL-3.0-or-later",
        "heif": "LGPL-3.0-or-later",
        "x265": "GPL-2.0-or-later",
    },
}
_WORDS: Final = {
    "3-Clause BSD License": "BSD-3-Clause",
    "Apache 2.0": "Apache-2.0",
    "Apache License 2.0": "Apache-2.0",
    "BSD": "BSD-3-Clause",
    "MIT License": "MIT",
}
_CLASSIFIERS: Final = {
    "License :: OSI Approved :: Apache Software License": "Apache-2.0",
    "License :: OSI Approved :: MIT License": "MIT",
}

_PAGE: Final = """<!-- Written by scripts/lock. -->
# Licences of the packages in the service image

As declared by the packages, as SPDX expressions. A test refuses licences that are neither allowed nor an
exception in `scripts/licences.py`. Most packages install their licence text
(`/venv/lib/python3.11/site-packages/*.dist-info/`). Python itself and Debian's packages come with the base
image and are not listed.

`cpu` and `gpu` are the two runtimes; `heif`, `otel` and `gpu-decode` are installed if `EXTRAS` names them.

| package | version | licence | in |
|---|---|---|---|
{packages}

## Exceptions

{exceptions}

## Libraries in the wheels

Shared libraries in the Linux wheels, by the licence texts in the same wheels. Where there is a choice (OR),
the first applies. A test fails if a wheel contains a library that is not listed.

| wheel | library | licence |
|---|---|---|
{libraries}
"""


@dataclass(frozen=True)
class Package:
    """A package in the image; `licence` is an SPDX expression, or "unknown"."""

    name: str
    version: str
    licence: str


def licence_of(name: str, expression: str | None, words: str | None, classifiers: Iterable[str]) -> str:
    """Return the SPDX expression of a package from License-Expression, License and Classifier."""
    if normal(name) in EXCEPTIONS:
        return EXCEPTIONS[normal(name)][0]
    if expression:
        return expression
    words = (words or "").strip()
    if words in ALLOWED or words in _WORDS:
        return _WORDS.get(words, words)
    known = [_CLASSIFIERS[c] for c in classifiers if c in _CLASSIFIERS]
    return known[0] if len(known) == 1 else "unknown"


def refused(package: Package) -> set[str]:
    """Return the parts of its licence that are not allowed."""
    if EXCEPTIONS.get(normal(package.name), ("",))[0] == package.licence:
        return set()
    return set(re.split(r" (?:AND|OR|WITH) |[()]", package.licence)) - ALLOWED - {""}


def page(parts: Mapping[str, Iterable[Package]]) -> str:
    """Write docs/licences.md; `parts` holds the packages by their file in docker/requirements."""
    parts_of: dict[Package, list[str]] = {}
    for part, packages in parts.items():
        for package in packages:
            parts_of.setdefault(package, []).append(part)
    rows = sorted(parts_of.items(), key=lambda row: normal(row[0].name))
    reasons: dict[str, list[str]] = {}
    for name, (_licence, why) in EXCEPTIONS.items():
        reasons.setdefault(why, []).append(f"`{name}`")
    bundled = [(wheel, *entry) for wheel, names in BUNDLED.items() for entry in names.items()]
    return _PAGE.format(
        packages="\n".join(
            f"| {p.name} | {p.version} | {p.licence} | {', '.join(names)} |" for p, names in rows
        ),
        exceptions="\n".join(f"- {', '.join(names)}: {why}." for why, names in reasons.items()),
        libraries="\n".join(f"| {wheel} | lib{name} | {licence} |" for wheel, name, licence in bundled),
    )


def normal(name: str) -> str:
    """Normalise a package name as the index does (PEP 503)."""
    return re.sub(r"[-_.]+", "-", name).lower()
