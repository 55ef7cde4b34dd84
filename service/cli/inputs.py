"""The picture files that somebody names on the command line."""

import glob
import re
import shlex
import sys
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from contract.picture import sniff
from service.cli.usage import PICTURES
from service.errors import BodyTooLarge, InvalidRequest

STDIN: Final = "-"
URL: Final = re.compile("[A-Za-z][A-Za-z0-9+.-]*://|data:")


class Unreadable(Exception):
    """A file that cannot be read; the message says why."""


@dataclass(frozen=True)
class File:
    """`name` as it was given, or as it was found below a folder; `-` is standard input."""

    name: str
    missing: str | None = None  # why there is nothing of that name

    @property
    def place(self) -> Path:
        """Where it lies, whatever links lead to its folder."""
        path = Path(self.name)
        return path.parent.resolve() / path.name

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
        if not argument:  # an empty variable; as a path it would be the current folder
            files.append(File(argument, "the name is empty; . is the current folder"))
        elif argument == STDIN or _is_there(argument):
            files += _at(argument)
        elif URL.match(argument):
            download = f"download it first: curl -LO {shlex.quote(argument)}"
            remedy = download if argument.startswith("http") else "name a file"
            files.append(File(argument, f"URLs are not fetched; {remedy}"))
        elif glob.has_magic(argument):
            # `a/**/*` stands for a folder and for what is in it, which may be a link to that folder.
            found: dict[Path, File] = {}
            for file in (file for name in _matches(argument) for file in _at(name)):
                found.setdefault(file.place, file)
            files += found.values() or [File(argument, "no file matches")]
        else:
            files.append(File(argument))
    return files


def _is_there(name: str) -> bool:
    try:
        return Path(name).exists()
    except OSError:  # too long for a name
        return False


def _matches(pattern: str) -> list[str]:
    """Sorted names. `**` stands for the folders that `_folders` finds; glob's own would follow links in
    circles, 40 times each.
    """
    parts = Path(pattern).parts
    if "**" not in parts:
        return sorted(glob.glob(pattern))  # noqa: PTH207  Path.glob takes no absolute ones
    at = parts.index("**")
    tops, below = _matches(str(Path(*parts[:at]))), parts[at + 1 :]
    if not below:
        return tops
    within = {folder for top in tops for folder in _folders(Path(top))}
    found = {name for each in within for name in _matches(str(Path(glob.escape(str(each)), *below)))}
    return sorted(found)


def _at(name: str) -> list[File]:
    if name == STDIN or not Path(name).is_dir():
        return [File(name)]
    files = sorted(path for folder in _folders(Path(name)) for path in _entries(folder))
    return [File(str(path)) for path in files if _is_picture(path)] or [
        File(name, "the folder has no pictures")
    ]


def _folders(top: Path) -> list[Path]:
    """Itself and the folders below it, by links too, hidden ones passed over as in training. One that is
    reached twice counts once, which ends circles.
    """
    found: dict[Path, Path] = {}  # by the real path
    waiting = deque([top])
    while waiting:
        folder = waiting.popleft()
        if found.setdefault(folder.resolve(), folder) is not folder:
            continue
        below = [path for path in _entries(folder) if path.is_dir()]
        waiting.extendleft(path for path in below if not path.is_symlink())
        # Links last, so that a folder goes by the name where it lies.
        waiting.extend(path for path in below if path.is_symlink())
    return list(found.values())


def _entries(folder: Path) -> list[Path]:
    """In order, without what is hidden; none of a folder that cannot be read."""
    try:
        return sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    except OSError:
        return []


def _is_picture(path: Path) -> bool:
    """By its name or by its first bytes."""
    if not path.is_file():
        return False
    if path.suffix.lower() in PICTURES:
        return True
    try:
        with path.open("rb") as file:
            return sniff(file.read(32)) is not None
    except OSError:
        return False
