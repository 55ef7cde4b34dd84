"""The picture files that somebody names on the command line."""

import glob
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from contract.picture import sniff
from service.errors import BodyTooLarge, InvalidRequest

STDIN: Final = "-"
SUFFIXES: Final = (
    ".avif",
    ".bmp",
    ".gif",
    ".heic",
    ".heif",
    ".jpeg",
    ".jpg",
    ".png",
    ".tif",
    ".tiff",
    ".webp",
)


class Unreadable(Exception):
    """A file that cannot be read; the message says why."""


@dataclass(frozen=True)
class File:
    """`name` as it was given, or as it was found below a folder; `-` is standard input."""

    name: str
    missing: str | None = None  # why there is nothing of that name

    def read(self, limit: int | None) -> bytes:
        """Raises Unreadable, InvalidRequest if it is empty, BodyTooLarge past `limit` bytes."""
        if self.missing:
            raise Unreadable(self.missing)
        size = -1 if limit is None else limit + 1
        try:
            if self.name == STDIN:
                data = sys.stdin.buffer.read(size)
            else:
                with Path(self.name).open("rb") as file:
                    data = file.read(size)
        except OSError as error:
            raise Unreadable(error.strerror or str(error)) from None
        if not data:
            raise InvalidRequest("the image is empty; send the bytes of one image file")
        if limit is not None and len(data) > limit:
            raise BodyTooLarge(f"the file has more than the {limit} bytes that MAX_BODY_BYTES allows")
        return data


def named(arguments: Iterable[str]) -> list[File]:
    """Files as they are, the pictures below folders, and what wildcards stand for, each in the order of
    its name. What is not there has its place too.
    """
    files: list[File] = []
    for argument in arguments:
        if argument == STDIN or not glob.has_magic(argument) or Path(argument).exists():
            files += _at(argument)
        else:
            found = sorted(glob.glob(argument, recursive=True))  # noqa: PTH207  Path.glob takes no absolute ones
            for name in found:
                files += _at(name)
            if not found:
                files.append(File(argument, "no file matches"))
    return files


def _at(name: str) -> list[File]:
    if name == STDIN or not Path(name).is_dir():
        return [File(name)]
    pictures = [File(str(path)) for path in sorted(Path(name).rglob("*")) if _is_picture(path, Path(name))]
    return pictures or [File(name, "the folder has no pictures")]


def _is_picture(path: Path, folder: Path) -> bool:
    """By its name or by its first bytes; hidden files and folders are passed over, as in training."""
    if any(part.startswith(".") for part in path.relative_to(folder).parts) or not path.is_file():
        return False
    if path.suffix.lower() in SUFFIXES:
        return True
    try:
        with path.open("rb") as file:
            return sniff(file.read(32)) is not None
    except OSError:
        return False
