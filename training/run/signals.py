"""Handle Ctrl-C and SIGTERM while a run trains: it stops after a step, with a checkpoint."""

import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Final

INTERRUPTED: Final = 130  # the exit code


class Interrupted(Exception):
    """The run was stopped by Ctrl-C or SIGTERM, and a checkpoint has been written."""


class Signals:
    """The handler of Ctrl-C and SIGTERM.

    Before `defer`, a signal calls `abandon` and ends the process at once: there is nothing to save, and no
    waiting for threads that decode pictures. After it, a signal sets `stopping`; a second one ends the
    process.
    """

    def __init__(self, abandon: Callable[[], object]) -> None:
        self._abandon = abandon
        self._deferred = False
        self.stopping = False

    def defer(self) -> None:
        """From now on, let signals set `stopping`."""
        self._deferred = True

    def handle(self, number: int, _frame: FrameType | None) -> None:
        """Handle a signal; may end the process."""
        if not self._deferred:
            self._abandon()
            print("interrupted before there was anything to save", file=sys.stderr, flush=True)
            os._exit(INTERRUPTED)
        if self.stopping:
            os._exit(128 + number)  # SIG_DFL would not end process 1 of a container
        self.stopping = True


@contextmanager
def catch_signals(abandon: Callable[[], object]) -> Iterator[Signals]:
    """Handle both signals within the context, and restore their handlers at the end."""
    signals = Signals(abandon)
    before = {number: signal.signal(number, signals.handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield signals
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
