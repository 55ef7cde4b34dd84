"""Read files of untrusted origin: only regular files, and only up to a size."""

import errno
import os
import stat
from pathlib import Path


def read_file(path: Path, max_bytes: int, links: bool = True) -> bytes:
    """Read a regular file of up to `max_bytes`; follow a symbolic link only with `links`.

    Raises OSError with the reason in `strerror`. A pipe or a device is refused without waiting for data.
    """
    flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | (0 if links else os.O_NOFOLLOW)
    descriptor = os.open(path, flags)
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            kind = " but a folder" if stat.S_ISDIR(status.st_mode) else ""
            raise OSError(errno.EINVAL, f"it is not a regular file{kind}")
        if status.st_size > max_bytes:
            raise OSError(errno.EFBIG, f"it has {status.st_size:,} bytes, {max_bytes:,} are allowed")
        with os.fdopen(descriptor, "rb", closefd=False) as file:
            data = file.read(status.st_size + 1)
    finally:
        os.close(descriptor)
    if len(data) > status.st_size:
        raise OSError(errno.EFBIG, "it grew while it was read")
    return data
