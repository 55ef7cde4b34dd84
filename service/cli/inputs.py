"""Find and read the picture files named on the command line."""

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


class UnreadableFile(Exception):
    """A file that cannot be read; the message says why."""


@dataclass(frozen=True)
class File:
    """A file to predict. `name` is the argument, or the path found below a folder; `-` is stdin."""

    name: str
    missing: str | None = None  # why there is no such file

    @property
    def location(self) -> Path:
        """The path with the links of its folder resolved, to detect duplicates."""
        path = Path(self.name)
        return path.parent.resolve() / path.name

    def read(self, limit: int | None) -> bytes:
        """Read up to `limit` bytes. Raises UnreadableFile, InvalidRequest if empty, else BodyTooLarge."""
        if self.missing:
            raise UnreadableFile(self.missing)
        size = -1 if limit is None else limit + 1
        try:
            if self.name == STDIN:
                data = sys.stdin.buffer.read(size)
            else:
                with Path(self.name).open("rb") as file:
                    data = file.read(size)
        except OSError as error:
            raise UnreadableFile(error.strerror or str(error)) from None
        if not data:
            raise InvalidRequest("the image is empty; send the bytes of one image file")
        if limit is not None and len(data) > limit:
            raise BodyTooLarge(f"the file has more than the {limit} bytes that MAX_BODY_BYTES allows")
        return data


def find_files(arguments: Iterable[str]) -> list[File]:
    """Resolve the arguments: files, the pictures below folders and the matches of wildcards.

    The order is that of the arguments, and sorted by name within each. A missing file gets an entry whose
    `missing` says why.
    """
    files: list[File] = []
    for argument in arguments:
        if not argument:  # an empty variable; as a path it would be the current folder
            files.append(File(argument, "the name is empty; . is the current folder"))
        elif argument == STDIN or _exists(argument):
            files += _files_at(argument)
        elif URL.match(argument):
            download = f"download it first: curl -LO {shlex.quote(argument)}"
            remedy = download if argument.startswith("http") else "name a file"
            files.append(File(argument, f"URLs are not fetched; {remedy}"))
        elif glob.has_magic(argument):
            # `a/**/*` matches a folder and its content, which may be a link to that folder.
            matches: dict[Path, File] = {}
            for file in (file for name in _matches(argument) for file in _files_at(name)):
                matches.setdefault(file.location, file)
            files += matches.values() or [File(argument, "no file matches")]
        else:
            files.append(File(argument))
    return files


def _exists(name: str) -> bool:
    try:
        return Path(name).exists()
    except OSError:  # the name is too long
        return False


def _matches(pattern: str) -> list[str]:
    """Return the sorted matches of a pattern.

    `**` is expanded with `_folders`, because glob's own would follow circular links 40 times each.
    """
    parts = Path(pattern).parts
    if "**" not in parts:
        return sorted(glob.glob(pattern))  # noqa: PTH207  Path.glob refuses absolute patterns
    index = parts.index("**")
    tops, rest = _matches(str(Path(*parts[:index]))), parts[index + 1 :]
    if not rest:
        return tops
    folders = {folder for top in tops for folder in _folders(Path(top))}
    return sorted(
        {name for folder in folders for name in _matches(str(Path(glob.escape(str(folder)), *rest)))}
    )


def _files_at(name: str) -> list[File]:
    if name == STDIN or not Path(name).is_dir():
        return [File(name)]
    files = sorted(path for folder in _folders(Path(name)) for path in _entries(folder))
    return [File(str(path)) for path in files if _is_picture(path)] or [
        File(name, "the folder has no pictures")
    ]


def _folders(top: Path) -> list[Path]:
    """List a folder and the folders below it, following links and skipping hidden ones as training does.

    A folder that is reached twice is listed once, so circular links end.
    """
    by_real_path: dict[Path, Path] = {}
    waiting = deque([top])
    while waiting:
        folder = waiting.popleft()
        if by_real_path.setdefault(folder.resolve(), folder) is not folder:
            continue
        below = [path for path in _entries(folder) if path.is_dir()]
        waiting.extendleft(path for path in below if not path.is_symlink())
        # Links last, so that a folder is listed by its real name.
        waiting.extend(path for path in below if path.is_symlink())
    return list(by_real_path.values())


def _entries(folder: Path) -> list[Path]:
    """List the visible entries of a folder, sorted; an unreadable folder has none."""
    try:
        return sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    except OSError:
        return []


def _is_picture(path: Path) -> bool:
    """Return whether a path is a picture, by its suffix or its first bytes."""
    if not path.is_file():
        return False
    if path.suffix.lower() in PICTURES:
        return True
    try:
        with path.open("rb") as file:
            return sniff(file.read(32)) is not None
    except OSError:
        return False
