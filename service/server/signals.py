"""Signals of a serving process: SIGTERM and Ctrl-C stop it, SIGHUP reloads models and keys.

When the terminal that a server was started at is closed, a SIGHUP comes, too: that one stops it.
"""

import asyncio
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager

STOPS = (signal.SIGTERM, signal.SIGINT)
_has_terminal = False


def exit_on_signal(serves: bool) -> None:
    """Have signals end this process until something else handles them: imports take a second, models more.

    The first process of a container is not ended by a signal that it has no handler for; nor would it get
    one that came before, if the image did not start it with these signals blocked.
    """
    if serves:
        _note_terminal()
        signal.signal(signal.SIGHUP, lambda _number, _frame: terminal_is_closed() and os._exit(0))
        for number in STOPS:
            signal.signal(number, lambda _number, _frame: os._exit(0))  # nothing is in flight yet
    else:
        # At once: a thread that waits for a pipe would hold up anything gentler.
        for number in STOPS:
            if os.getpid() == 1:
                signal.signal(number, lambda number, _frame: os._exit(128 + number))
            else:
                signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, STOPS)


@contextmanager
def handled_on_loop(stop: Callable[[], None], reload: Callable[[], None]) -> Iterator[None]:
    """Call `stop` and `reload` on the running event loop; afterwards ignore signals: the process ends."""
    loop = asyncio.get_running_loop()
    for number in STOPS:
        loop.add_signal_handler(number, stop)
    loop.add_signal_handler(signal.SIGHUP, lambda: stop() if terminal_is_closed() else reload())
    try:
        yield
    finally:
        # Blocked in between, because asyncio gives them back to the system, which would end the process.
        signal.pthread_sigmask(signal.SIG_BLOCK, (*STOPS, signal.SIGHUP))
        for number in (*STOPS, signal.SIGHUP):
            loop.remove_signal_handler(number)
        ignore()
        signal.pthread_sigmask(signal.SIG_UNBLOCK, (*STOPS, signal.SIGHUP))


def ignore() -> None:
    """Ignore signals while Python shuts down: it would give them back to the system, and the exit code
    would be another.
    """
    for number in (*STOPS, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)


def terminal_is_closed() -> bool:
    """Return whether there was one and is no more; never in a worker, whose parent looks after that."""
    return _has_terminal and not _opens()


def _note_terminal() -> None:
    """Remember whether there is one, before SIGHUP gets a handler.

    There is none for what systemd, cron or `setsid` starts. Where SIGHUP is ignored, as by `nohup`, the
    server is to outlive it. A container's own (`tty: true`) stays open.
    """
    global _has_terminal
    _has_terminal = signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN and _opens()


def _opens() -> bool:
    """Open the terminal: the kernel takes a closed one away from its session before it sends the signal."""
    try:
        os.close(os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY))
    except OSError:
        return False
    return True
