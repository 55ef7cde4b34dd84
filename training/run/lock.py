"""Lock a run folder against a second trainer; the kernel unlocks it when the process ends."""

import fcntl
import os
import platform
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Final

from training.distributed import Ranks
from training.errors import CheckpointError

LOCK: Final = ".lock"  # its presence alone, as after a kill, does not lock the folder


def contents(run: Path) -> list[str]:
    """List the names in a run folder, sorted, without its lock; none if there is no such folder."""
    return sorted(path.name for path in run.iterdir() if path.name != LOCK) if run.is_dir() else []


@contextmanager
def locked(run: Path) -> Iterator[Callable[[], None]]:
    """Hold the lock of a run folder; make the folder if it is missing, and remove it if it stays empty.

    -> the clean-up function, for a process that exits without leaving the context. Raises CheckpointError,
    which names the other process, if the folder is locked.
    """
    created = [path for path in (run, *run.parents) if not path.exists()]
    run.mkdir(parents=True, exist_ok=True)
    file = _take(run)

    def release() -> None:
        (run / LOCK).unlink(missing_ok=True)
        for path in created:
            if path.is_dir() and not any(path.iterdir()):
                path.rmdir()

    try:
        yield release
    finally:
        release()
        os.close(file)


@contextmanager
def locked_for_all(run: Path, ranks: Ranks) -> Iterator[Callable[[], None]]:
    """Hold the lock in the main process of a torchrun; all processes raise if it fails."""
    with ExitStack() as stack:
        release, problem = _nothing, None
        if ranks.is_main:
            try:
                release = stack.enter_context(locked(run))
            except (CheckpointError, OSError) as error:
                problem = error
        if ranks.any_rank(problem is not None):
            raise problem or CheckpointError(
                f"{run} cannot be locked for training; the main process says why"
            )
        yield release


def _nothing() -> None:
    """Clean up nothing, in the processes that hold no lock."""


def holder(run: Path) -> str | None:
    """Return the process that trains in this folder, in words; None if there is none."""
    try:
        file = os.open(run / LOCK, os.O_RDWR)
    except OSError:
        return None
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return _process_in(file)
    except OSError:
        return None
    finally:
        os.close(file)
    return None


def in_use(run: Path, process: str) -> str:
    """Return the message for a run folder that `process` has locked."""
    return (
        f"{run} is being trained in already, by {process}; wait for its end or stop it, or choose another "
        "folder"
    )


def _process_in(file: int) -> str:
    return os.pread(file, 200, 0).decode(errors="replace").strip() or "another process"


def _take(run: Path) -> int:
    """Lock the folder -> the open lock file, with the name of this process in it."""
    path = run / LOCK
    while True:
        file = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            process = _process_in(file)
            os.close(file)
            raise CheckpointError(in_use(run, process)) from None
        except OSError:  # a file system without locks, such as some network file systems
            return file
        try:
            current = path.stat().st_ino == os.fstat(file).st_ino
        except FileNotFoundError:
            current = False
        if current:
            os.ftruncate(file, 0)
            os.pwrite(file, f"process {os.getpid()} on {platform.node()}\n".encode(), 0)
            return file
        os.close(file)  # the holder removed it meanwhile, and another process may have made a new one
