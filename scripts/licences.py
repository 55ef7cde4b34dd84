"""The licences of what the service's image installs, as docs/licences.md shows them.

A package names its licence in up to three ways; here it becomes one SPDX expression. ALLOWED says which may
be in an image; what is not there is refused by a test, so that a copyleft package cannot come in unnoticed.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

ALLOWED: Final = {
    *("0BSD", "Apache-2.0", "BSD-2-Clause", "BSD-3-Clause", "CC0-1.0", "MIT", "MIT-CMU", "PSF-2.0", "Zlib"),
}
# Packages that may have another one, and why.
EXCEPTIONS: Final = {
    "certifi": (
        "MPL-2.0",
        "a list of certificates. The licence requires that changes of the list itself be distributed too",
    ),
    "pillow-heif": (
        "GPL-2.0-or-later",
        "its code is BSD-3-Clause; its wheel contains x265 (GPL-2.0-or-later), libheif and libde265 "
        "(LGPL-3.0-or-later). To distribute an image with `EXTRAS=heif` is to distribute GPL software",
    ),
    **dict.fromkeys(
        (
            *("nvidia-cublas", "nvidia-cuda-nvrtc", "nvidia-cuda-runtime", "nvidia-cudnn-cu13"),
            *("nvidia-cufft", "nvidia-curand", "nvidia-nvjitlink"),
        ),
        (
            "LicenseRef-NVIDIA-Proprietary",
            "NVIDIA's terms, not open source: read them before distributing it",
        ),
    ),
}
# Libraries that lie beside the code in the Linux wheels, by the licence texts in the same wheels.
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
# Licences of what the service's image installs

As declared by the packages, as SPDX expressions. A test fails for a licence that is neither in the list of
`scripts/licences.py` nor one of its exceptions. The texts of most are in the image
(`/venv/lib/python3.11/site-packages/*.dist-info/`). Python and Debian's packages come with the base image
and are not listed.

`cpu` and `gpu` are the two runtimes; `heif` and `otel` are installed if `EXTRAS` contains them.

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
    """`licence` is an SPDX expression, or "unknown"."""

    name: str
    version: str
    licence: str


def licence_of(name: str, expression: str | None, words: str | None, classifiers: Iterable[str]) -> str:
    """By core metadata's License-Expression, License and Classifier."""
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
    """The parts of its licence that are not allowed."""
    if EXCEPTIONS.get(normal(package.name), ("",))[0] == package.licence:
        return set()
    return set(re.split(r" (?:AND|OR|WITH) |[()]", package.licence)) - ALLOWED - {""}


def page(parts: Mapping[str, Iterable[Package]]) -> str:
    """docs/licences.md; `parts` by the file of docker/requirements."""
    where: dict[Package, list[str]] = {}
    for part, packages in parts.items():
        for package in packages:
            where.setdefault(package, []).append(part)
    rows = sorted(where.items(), key=lambda row: normal(row[0].name))
    reasons: dict[str, list[str]] = {}
    for name, (_licence, why) in EXCEPTIONS.items():
        reasons.setdefault(why, []).append(f"`{name}`")
    inside = [(wheel, *entry) for wheel, found in BUNDLED.items() for entry in found.items()]
    return _PAGE.format(
        packages="\n".join(
            f"| {p.name} | {p.version} | {p.licence} | {', '.join(found)} |" for p, found in rows
        ),
        exceptions="\n".join(f"- {', '.join(names)}: {why}." for why, names in reasons.items()),
        libraries="\n".join(f"| {wheel} | lib{name} | {licence} |" for wheel, name, licence in inside),
    )


def normal(name: str) -> str:
    """As the index spells it."""
    return re.sub(r"[-_.]+", "-", name).lower()
