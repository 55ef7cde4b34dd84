"""Where model files lie.

MODEL is one file, under the name and version of its manifest. MODELS is a folder of NAME.onnx and
NAME/VERSION/model.onnx, where the path says the name and the folder the version.
"""

import os
import re
import unicodedata
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from contract.manifest import CONTROL
from service.errors import ModelError
from service.settings import Settings

FileSignature = tuple[int, int, int]

MAX_NAME: Final = 512  # characters; a file's name has 255 bytes, and decomposed up to 4 characters for 3
GONE: Final = (FileNotFoundError, NotADirectoryError)


@dataclass(frozen=True)
class ModelLocation:
    """Where a model file lies, and what its path says of it."""

    path: Path
    name: str | None = None
    version: int | None = None
    error: str | None = None  # why its name cannot be served

    @property
    def file(self) -> str:
        """The path below MODELS, as messages show it."""
        return self.path.name if self.version is None else f"{self.name}/{self.version}/{self.path.name}"


def places(settings: Settings) -> list[ModelLocation]:
    """List every model file that there is now. Raises ModelError if MODEL's name is not plain text.

    Hidden files and folders are none: macOS, editors, backups and Kubernetes' volumes leave them.
    """
    if settings.model is not None:
        if (name := settings.model.name) != (shown := escaped(name)):
            raise ModelError(f"MODEL is a file named '{shown}'; rename it to plain text in UTF-8")
        return [ModelLocation(settings.model)]
    folder = settings.models
    files = [_place(path, path.stem, None) for path in sorted(folder.glob("[!.]*.onnx"))]
    numbered = (path for path in sorted(folder.glob("[!.]*/*/model.onnx")) if _is_version(path.parent.name))
    return files + [_place(path, path.parent.parent.name, int(path.parent.name)) for path in numbered]


def _is_version(text: str) -> bool:
    return re.fullmatch("[0-9]{1,15}", text) is not None and int(text) > 0


def _place(path: Path, name: str, version: int | None) -> ModelLocation:
    """Take the name as it is written in Unicode's normal form; one that is not plain text is an error."""
    shown = escaped(name)
    if shown != name:
        error = f"the name '{shown}' is not plain text in UTF-8 without control characters; rename it"
        return ModelLocation(path, shown, version, error)
    return ModelLocation(path, normal(name), version)


def escaped(name: str) -> str:
    """Escape bytes of a file's name that are not UTF-8, and control characters."""
    text = os.fsencode(name).decode("utf-8", errors="backslashreplace")
    return CONTROL.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


def normal(name: str) -> str:
    """Compose a name, because macOS writes é as two characters; one longer than any file's stays as it is.

    Unbounded, a client's 20,000 combining characters would take half a second.
    """
    return unicodedata.normalize("NFC", name) if len(name) <= MAX_NAME else name


def stamp_of(path: Path) -> FileSignature | None:
    """Changes when the file is replaced; None where there is none.

    Where the disk or the rights keep it from being seen, a stamp that no file has: reading it says why.
    """
    try:
        found = path.stat()
    except GONE:
        return None
    except OSError as error:
        return error.errno or 0, -1, -1
    return found.st_mtime_ns, found.st_size, found.st_ino


def look(
    settings: Settings, known: set[Path], hanging: frozenset[Path]
) -> tuple[list[ModelLocation], dict[Path, FileSignature | None]]:
    """The places there are now, and the stamps of them and of those `known`.

    Without the stamps of those that are `hanging`, which might never come.
    """
    found = places(settings)
    paths = known.union(place.path for place in found) - hanging
    return found, {path: stamp_of(path) for path in paths}
