"""Handle a serving process's signals: SIGTERM and Ctrl-C stop it, SIGHUP reloads models and keys.

SIGHUP is also sent when the terminal is closed in which the server was started: then it stops the server.
"""

import asyncio
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager

STOPS = (signal.SIGTERM, signal.SIGINT)
_has_terminal = False


def exit_on_signal(serving: bool) -> None:
    """Let signals end this process until other handlers are installed: imports take a second, models more.

    Process 1 of a container ignores signals without a handler. To lose none before this call, the image
    starts the process with these signals blocked; they are unblocked here.
    """
    if serving:
        _record_terminal()
        signal.signal(signal.SIGHUP, lambda _number, _frame: terminal_is_closed() and os._exit(0))
        for number in STOPS:
            signal.signal(number, lambda _number, _frame: os._exit(0))  # nothing is in flight yet
    else:
        # Without clean-up, which a thread that waits for a pipe would delay.
        for number in STOPS:
            if os.getpid() == 1:
                signal.signal(number, lambda number, _frame: os._exit(128 + number))
            else:
                signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, STOPS)


@contextmanager
def handled_on_loop(stop: Callable[[], None], reload: Callable[[], None]) -> Iterator[None]:
    """Handle signals by `stop` and `reload` on the running event loop; afterwards ignore them."""
    loop = asyncio.get_running_loop()
    for number in STOPS:
        loop.add_signal_handler(number, stop)
    loop.add_signal_handler(signal.SIGHUP, lambda: stop() if terminal_is_closed() else reload())
    try:
        yield
    finally:
        # Blocked meanwhile: asyncio restores the default handlers, with which a signal would kill the
        # process.
        signal.pthread_sigmask(signal.SIG_BLOCK, (*STOPS, signal.SIGHUP))
        for number in (*STOPS, signal.SIGHUP):
            loop.remove_signal_handler(number)
        ignore()
        signal.pthread_sigmask(signal.SIG_UNBLOCK, (*STOPS, signal.SIGHUP))


def ignore() -> None:
    """Ignore signals from now on.

    Python restores the default handlers as it shuts down; a signal would then change the exit code.
    """
    for number in (*STOPS, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)


def terminal_is_closed() -> bool:
    """Return whether the terminal of the start has been closed; always false in a worker process.

    There the parent process handles it.
    """
    return _has_terminal and not _terminal_opens()


def _record_terminal() -> None:
    """Record whether the process has a terminal; to be called before SIGHUP gets a handler.

    Processes that systemd, cron or `setsid` start have none. Where SIGHUP is ignored, as by `nohup`, the
    server must outlive its terminal. A container's own terminal (`tty: true`) stays open.
    """
    global _has_terminal
    _has_terminal = signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN and _terminal_opens()


def _terminal_opens() -> bool:
    """Return whether /dev/tty opens: a closed terminal is detached before SIGHUP is sent."""
    try:
        os.close(os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY))
    except OSError:
        return False
    return True
