"""Find the files to train on: which folders are classes, which files are pictures, train/ and val/."""

import os
import re
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, NamedTuple

from contract.formats.signatures import SIGNATURE_BYTES, SUFFIXES, sniff
from contract.manifest import CONTROL
from training.errors import DataError

MAX_LISTED: Final = 10  # names or problems of one kind in a message
# Folders of operating systems and network drives, with copies and thumbnails of pictures.
_SYSTEM: Final = {"__MACOSX", "@eaDir", "$RECYCLE.BIN", "System Volume Information"}
_TRAIN: Final = re.compile(r"train(ing)?([ _-]?(set|data|images))?", re.IGNORECASE)
_VAL: Final = re.compile(
    r"(val|valid|validation|test|testing|dev|eval|evaluation)([ _-]?(set|data|images))?", re.IGNORECASE
)


class Sample(NamedTuple):
    """A picture's file, the index of its class, and its printable name, CLASS/FILE."""

    path: Path
    label: int
    name: str


@dataclass(frozen=True)
class Tree:
    """The files in the class folders of `root`, class by class and sorted within.

    `samples` are the files expected to be pictures, `others` the rest. Labels are indices of `classes`.
    """

    root: Path
    classes: tuple[str, ...]
    samples: tuple[Sample, ...]
    others: tuple[Sample, ...]


@dataclass(frozen=True)
class Parts:
    """The folders that hold the class folders: `train` and `val`, or one tree, with `val` None."""

    train: Path
    val: Path | None
    warnings: tuple[str, ...] = ()


def find_parts(data: Path) -> Parts:
    """Tell whether `data` has train/ and val/ or is one tree of classes. Raises DataError if neither.

    A folder named like a part of a data set is one if it holds folders, and a class if it holds pictures.
    """
    names = folders_of(data)
    parts = _parts_among(data, names)
    if "train" in parts and "val" in names:
        unused = [f"{name}/" for name in names if name not in {"train", "val"}]
        warning = f"only train/ and val/ are used; not {listed(unused)}"
        return Parts(data / "train", data / "val", (warning,) if unused else ())
    if parts:
        raise DataError(f"{printable(data)} has {_advice(data, parts)}")
    return Parts(data, None)


def find_trees(data: Path) -> tuple[Parts, list[Tree]]:
    """List the files of one tree, or of train/ and val/ in this order. Raises DataError."""
    parts = find_parts(data)
    classes = class_names(parts.train)
    trees = [scan(parts.train, classes, classes)]
    if parts.val is not None:
        trees.append(scan_known(parts.val, classes))
    inner = [name for name in classes if any(map(looks_like_split, folders_of(parts.train / name)))]
    if inner:
        warning = f"{listed(inner)}: class folders that contain parts of a data set, which are merged"
        parts = replace(parts, warnings=(*parts.warnings, warning))
    return parts, trees


def find_measured(data: Path) -> Path:
    """Return the folder whose classes are to be measured: `data`/val if there is one, else `data`.

    Raises DataError.
    """
    parts = _parts_among(data, folders_of(data))
    if "val" in parts:
        return data / "val"
    if parts:
        raise DataError(f"{printable(data)} has {_advice(data, parts)}")
    return data


def _parts_among(data: Path, names: Sequence[str]) -> list[str]:
    """Return the folders that are parts of a divided data set: they hold classes, not pictures."""
    below = {name: set(folders_of(data / name)) for name in names if looks_like_split(name)}
    return [
        name
        for name, classes in below.items()
        if classes
        and (
            not any(_is_picture(path) for path in _files(data / name, deep=False))
            or any(classes & others for other, others in below.items() if other != name)
        )
    ]


def _advice(data: Path, parts: Sequence[str]) -> str:
    """Explain the problem with the names of `parts`, which are not a train/ beside a val/."""
    train = next((name for name in ("train", *parts) if name in parts and _TRAIN.fullmatch(name)), None)
    val = next((name for name in ("val", *parts) if name in parts and _VAL.fullmatch(name)), None)
    renamed = [f"{old} to {new}" for old, new in ((train, "train"), (val, "val")) if old and old != new]
    if train and val:
        problem = f"{train}/ and {val}/, both with class folders: rename {' and '.join(renamed)}"
        return f"{problem}, or pass one of them to split it"
    if train:
        return f"{train}/ but no val/; add one, or pass {train}/ to split it"
    return (
        f"{val}/ but no train/ beside it; add one, or pass {val}/ to split it, or move its class folders up"
    )


def looks_like_split(name: str) -> bool:
    """Tell whether `name` is a usual name of a part of a data set, such as Train, valid or test_set."""
    return bool(_TRAIN.fullmatch(name) or _VAL.fullmatch(name))


def class_names(root: Path) -> tuple[str, ...]:
    """Return the names of the class folders in `root`, sorted. Raises DataError if fewer than two."""
    names = folders_of(root)
    if len(names) < 2:
        message = f"{printable(root)} has {len(names)} class folders; at least two are needed"
        if len(names) == 1 and (inner := folders_of(root / names[0])):
            message += f". {printable(names[0])}/ has {len(inner)} folders: did you mean to pass that one?"
        if not names and (loose := sum(map(_is_picture, _files(root, deep=False)))):
            message += f". {loose} pictures are directly in it: put those of each class into a folder"
        raise DataError(message)
    require_plain(root, names)
    return names


def require_plain(root: Path, names: Iterable[str]) -> None:
    """Raise DataError for class folders whose names a model file cannot hold."""
    bad = [printable(name) for name in names if CONTROL.search(name)]
    if bad:
        raise DataError(
            f"{printable(root)} has class folders whose names are not UTF-8 or contain control characters: "
            f"{listed(bad)}; rename them"
        )


def scan(root: Path, names: Sequence[str], classes: Sequence[str]) -> Tree:
    """List the files of the class folders `names`, labelled by index in `classes`. Raises DataError."""
    samples: list[Sample] = []
    others: list[Sample] = []
    for name in names:
        for path in _files(root / name):
            sample = Sample(path, classes.index(name), printable(path.relative_to(root)))
            (samples if _is_picture(path) else others).append(sample)
    return Tree(root, tuple(classes), tuple(samples), tuple(others))


def scan_known(root: Path, classes: Sequence[str]) -> Tree:
    """List the files of `root`, whose folders must be among `classes`. Raises DataError if not."""
    plain = {unicodedata.normalize("NFC", name): name for name in classes}
    names = {name: plain.get(unicodedata.normalize("NFC", name)) for name in folders_of(root)}
    if not names:
        raise DataError(
            f"{printable(root)} has no class folders; expected one with a folder of images per class"
        )
    if unknown := [printable(name) for name, known in names.items() if known is None]:
        kind = "class" if len(unknown) == 1 else "classes"
        verb = "is" if len(unknown) == 1 else "are"
        raise DataError(
            f"{kind} {listed(map(repr, unknown))} in {printable(root)} {verb} not among those trained: "
            f"{listed(classes)}"
        )
    tree = scan(root, list(names), list(names))
    places = [classes.index(known) for known in names.values() if known is not None]
    samples, others = (
        tuple(sample._replace(label=places[sample.label]) for sample in part)
        for part in (tree.samples, tree.others)
    )
    return Tree(root, tuple(classes), samples, others)


def folders_of(root: Path) -> tuple[str, ...]:
    """Return the names of the folders in `root`, sorted, without hidden ones. Raises DataError."""
    if not root.is_dir():
        raise DataError(
            f"{printable(root)} is not a folder; expected one with a folder of images per class"
        )
    try:
        return tuple(sorted(p.name for p in root.iterdir() if p.is_dir() and not _hidden(p.name)))
    except OSError as error:
        raise DataError(f"{printable(root)} cannot be read: {error.strerror or error}") from None


def _files(folder: Path, deep: bool = True) -> Iterator[Path]:
    """Yield the files below `folder`, sorted, without hidden files and devices. Raises DataError."""

    def fail(error: OSError) -> None:
        raise DataError(f"{printable(error.filename)} cannot be read: {error.strerror or error}")

    paths: list[Path] = []
    for parent, below, names in os.walk(folder, onerror=fail):
        below[:] = [name for name in below if deep and not _hidden(name)]
        paths += [Path(parent, name) for name in names if not _hidden(name)]
    # A broken link stays in the list, to be reported as a picture that cannot be read.
    yield from (path for path in sorted(paths) if path.is_file() or not path.exists())


def pictures_below(folder: Path) -> list[Path]:
    """List the pictures anywhere below `folder`, sorted. Raises DataError."""
    return [path for path in _files(folder) if _is_picture(path)]


def _hidden(name: str) -> bool:
    return name.startswith(".") or name in _SYSTEM


def _is_picture(path: Path) -> bool:
    """Tell by its name, else by its first bytes, whether a file is meant to be a picture."""
    if path.suffix.lower() in SUFFIXES:
        return True
    try:
        with path.open("rb") as file:
            return sniff(file.read(SIGNATURE_BYTES)) is not None
    except OSError:
        return False


def printable(name: str | os.PathLike[str]) -> str:
    """Escape bytes that are not UTF-8 and control characters, for terminals, logs and JSON."""
    text = os.fsencode(name).decode("utf-8", "backslashreplace")
    escaped = CONTROL.sub(lambda match: ascii(match[0])[1:-1], text)
    return unicodedata.normalize("NFC", escaped)


def listed(words: Iterable[str], limit: int = MAX_LISTED) -> str:
    """Join at most `limit` words by commas, and count the others."""
    items = list(words)
    more = f" and {len(items) - limit:,} more" if len(items) > limit else ""
    return ", ".join(items[:limit]) + more


def by_suffix(names: Iterable[str]) -> str:
    """Count files by suffix: "50 .json, 1 without a suffix"."""
    counts: dict[str, int] = {}
    for name in names:
        suffix = Path(name).suffix.lower() or "without a suffix"
        counts[suffix] = counts.get(suffix, 0) + 1
    return listed(f"{count:,} {suffix}" for suffix, count in sorted(counts.items(), key=lambda c: -c[1]))
