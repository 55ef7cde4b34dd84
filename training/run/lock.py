"""One run in a run folder at a time: a lock that the kernel releases when its process ends, however."""

import fcntl
import os
import platform
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Final

from training.distributed import Ranks
from training.errors import CheckpointError

LOCK: Final = ".lock"  # in the run folder while it is trained; after a kill it may stay, and means nothing


def contents(run: Path) -> list[str]:
    """The names of what is in a run folder, sorted, without its lock; none if there is no such folder."""
    return sorted(path.name for path in run.iterdir() if path.name != LOCK) if run.is_dir() else []


@contextmanager
def locked(run: Path) -> Iterator[Callable[[], None]]:
    """Hold the lock of a run folder, which is made if it is missing, and removed if it stays empty.

    -> a function that does what is done at the end, for a process that ends before. Raises CheckpointError,
    which names the other process, if there is one in this folder.
    """
    made = [path for path in (run, *run.parents) if not path.exists()]
    run.mkdir(parents=True, exist_ok=True)
    file = _take(run)

    def release() -> None:
        (run / LOCK).unlink(missing_ok=True)
        for path in made:
            if path.is_dir() and not any(path.iterdir()):
                path.rmdir()

    try:
        yield release
    finally:
        release()
        os.close(file)


@contextmanager
def locked_for_all(run: Path, ranks: Ranks) -> Iterator[Callable[[], None]]:
    """As `locked`, for the processes of one torchrun: the first holds it, and all learn if it cannot."""
    with ExitStack() as stack:
        release, problem = _nothing, None
        if ranks.is_main:
            try:
                release = stack.enter_context(locked(run))
            except (CheckpointError, OSError) as error:
                problem = error
        if ranks.any_rank(problem is not None):
            raise problem or CheckpointError(f"{run} cannot be trained in; the first process says why")
        yield release


def _nothing() -> None:
    """What the others have to release."""


def holder(run: Path) -> str | None:
    """-> the process that trains in this folder, in words; None if there is none."""
    try:
        file = os.open(run / LOCK, os.O_RDWR)
    except OSError:
        return None
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return _words(file)
    except OSError:
        return None
    finally:
        os.close(file)
    return None


def in_use(run: Path, by: str) -> str:
    return (
        f"{run} is being trained in already, by {by}; wait for its end or stop it, or choose another folder"
    )


def _words(file: int) -> str:
    return os.pread(file, 200, 0).decode(errors="replace").strip() or "another process"


def _take(run: Path) -> int:
    """-> the locked file, open, with the name of this process in it."""
    path = run / LOCK
    while True:
        file = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            words = _words(file)
            os.close(file)
            raise CheckpointError(in_use(run, words)) from None
        except OSError:  # a file system without locks, as some network ones
            return file
        try:
            current = path.stat().st_ino == os.fstat(file).st_ino
        except FileNotFoundError:
            current = False
        if current:
            os.ftruncate(file, 0)
            os.pwrite(file, f"process {os.getpid()} on {platform.node()}\n".encode(), 0)
            return file
        os.close(file)  # whoever held it removed it meanwhile: another process may have made a new one
