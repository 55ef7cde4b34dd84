"""The terminal that a server was started at. When it is closed, a SIGHUP comes, as it does for a reload."""

import os
import signal

_ours = False


def note() -> None:
    """Remember whether there is one; to be called before SIGHUP gets a handler.

    There is none for what systemd, cron or `setsid` starts. Where SIGHUP is ignored, as by `nohup`, the
    server is to outlive it. A container's own (`tty: true`) stays open.
    """
    global _ours
    _ours = signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN and _opens()


def is_closed() -> bool:
    """Return whether it was there and is no more; never in a worker, whose parent looks after that."""
    return _ours and not _opens()


def _opens() -> bool:
    """The kernel takes a closed terminal away from its session before it sends the signal."""
    try:
        os.close(os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY))
    except OSError:
        return False
    return True
