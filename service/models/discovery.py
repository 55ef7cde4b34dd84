"""Find model files, and read names and versions from their paths.

MODEL is one file, served under the name and version of its manifest. MODELS is a folder of NAME.onnx
(version: the manifest's) and NAME/VERSION/model.onnx.
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

FileSignature = tuple[int, int, int]  # modification time in ns, bytes, inode

# Characters. A file name has at most 255 bytes; decomposed, 3 bytes become up to 4 characters.
MAX_NAME: Final = 512
GONE: Final = (FileNotFoundError, NotADirectoryError)


@dataclass(frozen=True)
class ModelLocation:
    """The path of a model file, and the name and version that the path gives."""

    path: Path
    name: str | None = None
    version: int | None = None
    error: str | None = None  # why its name cannot be served

    @property
    def file(self) -> str:
        """The path below MODELS, as it is in messages."""
        return self.path.name if self.version is None else f"{self.name}/{self.version}/{self.path.name}"


def model_locations(settings: Settings) -> list[ModelLocation]:
    """List the model files that exist now. Raises ModelError if MODEL's name is not plain text.

    Hidden files and folders are skipped: macOS, editors, backups and Kubernetes' volumes create them.
    """
    if settings.model is not None:
        if (name := settings.model.name) != (shown := escape_name(name)):
            raise ModelError(f"MODEL is a file named '{shown}'; rename it to plain text in UTF-8")
        return [ModelLocation(settings.model)]
    folder = settings.models
    files = [_location(path, path.stem, None) for path in sorted(folder.glob("[!.]*.onnx"))]
    numbered = (path for path in sorted(folder.glob("[!.]*/*/model.onnx")) if _is_version(path.parent.name))
    return files + [_location(path, path.parent.parent.name, int(path.parent.name)) for path in numbered]


def _is_version(text: str) -> bool:
    return re.fullmatch("[0-9]{1,15}", text) is not None and int(text) > 0


def _location(path: Path, name: str, version: int | None) -> ModelLocation:
    """Make the location of a file in MODELS, with an error if its name is not plain text."""
    shown = escape_name(name)
    if shown != name:
        error = f"the name '{shown}' is not plain text in UTF-8 without control characters; rename it"
        return ModelLocation(path, shown, version, error)
    return ModelLocation(path, normalize_name(name), version)


def escape_name(name: str) -> str:
    """Escape the bytes of a file name that are not UTF-8, and control characters."""
    text = os.fsencode(name).decode("utf-8", errors="backslashreplace")
    return CONTROL.sub(lambda match: match[0].encode("unicode_escape").decode(), text)


def normalize_name(name: str) -> str:
    """Compose a name (NFC), because macOS writes é as two characters.

    A name longer than any file name stays as it is: normalizing a client's 20,000 combining characters
    would take half a second.
    """
    return unicodedata.normalize("NFC", name) if len(name) <= MAX_NAME else name


def file_signature(path: Path) -> FileSignature | None:
    """Return a signature that changes when the file does; None if there is no file.

    If the disk or the permissions prevent that, return one that no file has: reading the file then gives
    the error.
    """
    try:
        status = path.stat()
    except GONE:
        return None
    except OSError as error:
        return error.errno or 0, -1, -1
    return status.st_mtime_ns, status.st_size, status.st_ino


def scan(
    settings: Settings, known: set[Path], hanging: frozenset[Path]
) -> tuple[list[ModelLocation], dict[Path, FileSignature | None]]:
    """List the model files that exist now, and the signatures of them and of the `known` ones.

    Files that are `hanging` have no signature, because reading it might never return.
    """
    locations = model_locations(settings)
    paths = known.union(location.path for location in locations) - hanging
    return locations, {path: file_signature(path) for path in paths}
