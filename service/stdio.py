"""The standard streams of a serving process: always open, never waited for, closed to C libraries."""

import faulthandler
import logging
import os
import select
import sys
import threading
import time
import warnings
from contextlib import suppress
from typing import Final, TextIO

LINES_A_MINUTE: Final = 20
LINE_BYTES: Final = 500
MINUTE_S: Final = 60.0
PIPE_BYTES: Final = 65536  # what a pipe holds at most

log = logging.getLogger("alexnet")
_real_stderr = 2


def real_stderr() -> int:
    """-> the descriptor on which somebody may read what this process says."""
    return _real_stderr


def open_missing() -> None:
    """Opens /dev/null in place of closed standard streams; else a socket would get such a number, and what
    is meant for stderr would go to a client.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            opened = os.open(os.devnull, os.O_RDWR)  # the lowest that is free
            os.set_inheritable(opened, True)
    if sys.stdout is None:
        sys.stdout = _text(1)
    if sys.stderr is None:
        sys.stderr = _text(2)


def write_line(text: str, stream: TextIO) -> None:
    """Writes a line as far as somebody reads it; nobody is waited for, and nobody there is no error."""
    data, descriptor, room = text.encode(errors="backslashreplace") + b"\n", stream.fileno(), select.poll()
    room.register(descriptor, select.POLLOUT)
    with suppress(OSError):  # the reader is gone, or the disk full
        while data and room.poll(0):  # where there is room at all, there is room for PIPE_BUF: pipe(7)
            data = data[os.write(descriptor, data[: select.PIPE_BUF]) :]


def log_library_stderr() -> None:
    """Keeps stderr for Python; what C libraries write on descriptor 2 goes to the log, in bounds.

    They write about many a broken picture: 20 lines a minute are logged, the rest is lost, and no library
    waits for anybody to read it. A fatal signal is reported by faulthandler on the real stderr, because the
    last message on descriptor 2 may be lost with the process. To be called before logs.configure, which
    looks up stderr.
    """
    _keep_stderr_for_python()
    faulthandler.enable(sys.stderr)
    pipe, theirs = os.pipe()
    os.set_blocking(theirs, False)
    os.dup2(theirs, 2)
    os.close(theirs)
    threading.Thread(target=_log_lines, args=(pipe,), daemon=True, name="stderr").start()


def discard_library_stderr() -> None:
    """Keeps stderr for Python; what C libraries write on descriptor 2 is lost."""
    _keep_stderr_for_python()
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    os.close(nowhere)


def _keep_stderr_for_python() -> None:
    global _real_stderr
    _real_stderr = os.dup(2)
    sys.stderr = _text(_real_stderr)
    if not sys.warnoptions:
        # Pillow's speak of what is odd in a picture, and Python remembers each text for ever.
        warnings.simplefilter("ignore")


def _text(descriptor: int) -> TextIO:
    return open(descriptor, "w", buffering=1, errors="backslashreplace", closefd=False)


def _log_lines(pipe: int) -> None:
    """Reads until nobody can write any more."""
    waiting = select.poll()
    waiting.register(pipe, select.POLLIN)
    began, logged, rest = time.monotonic(), 0, b""
    while data := os.read(pipe, PIPE_BYTES):
        *lines, rest = (rest + data).split(b"\n")
        if len(rest) > LINE_BYTES:
            lines, rest = [*lines, rest], b""
        if time.monotonic() - began > MINUTE_S:
            began, logged = time.monotonic(), 0
        for line in lines[: LINES_A_MINUTE - logged]:
            # Parts of it may come from a picture: escaped, so that no terminal takes them for commands.
            log.warning("a library wrote on stderr: %s", ascii(line[:LINE_BYTES])[2:-1])
        logged += len(lines)
        if logged >= LINES_A_MINUTE:
            log.warning("libraries write much on stderr; what they write in the next minute is lost")
            time.sleep(MINUTE_S)  # the pipe fills up, and takes no more
            rest = b""
            if waiting.poll(0):
                os.read(pipe, PIPE_BYTES)
