"""Files that others may have put there: read in one piece if they are plain files and not too large."""

import errno
import os
import stat
from pathlib import Path


def read_file(path: Path, most: int, links: bool = True) -> bytes:
    """Read a regular file of up to `most` bytes, through a symbolic link only with `links`.

    Raises OSError with a reason in `strerror`. A pipe or a device is refused and never waited for.
    """
    flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | (0 if links else os.O_NOFOLLOW)
    descriptor = os.open(path, flags)
    try:
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode):
            kind = " but a folder" if stat.S_ISDIR(found.st_mode) else ""
            raise OSError(errno.EINVAL, f"it is not a regular file{kind}")
        if found.st_size > most:
            raise OSError(errno.EFBIG, f"it has {found.st_size:,} bytes, {most:,} are allowed")
        with os.fdopen(descriptor, "rb", closefd=False) as file:
            data = file.read(found.st_size + 1)
    finally:
        os.close(descriptor)
    if len(data) > found.st_size:
        raise OSError(errno.EFBIG, "it grew while it was read")
    return data
