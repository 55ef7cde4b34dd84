"""Keep a server's stdin, stdout and stderr open and non-blocking; log what C libraries print."""

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
PIPE_BYTES: Final = 65536  # capacity of a pipe

log = logging.getLogger("alexnet")
_real_stderr = 2


def real_stderr() -> int:
    """Return the descriptor of the stderr that the process was started with."""
    return _real_stderr


def open_missing() -> None:
    """Open /dev/null for closed standard streams.

    Otherwise a socket would get such a number, and what is meant for stderr would go to a client.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            descriptor = os.open(os.devnull, os.O_RDWR)  # gets the lowest free number: this one
            os.set_inheritable(descriptor, True)
    if sys.stdout is None:
        sys.stdout = _text(1)
    if sys.stderr is None:
        sys.stderr = _text(2)


def write_line(text: str, stream: TextIO) -> None:
    """Write a line without waiting: what the reader does not take is dropped; errors are ignored."""
    data, descriptor = text.encode(errors="backslashreplace") + b"\n", stream.fileno()
    writable = select.poll()
    writable.register(descriptor, select.POLLOUT)
    with suppress(OSError):  # the reader has gone, or the disk is full
        while data and writable.poll(0):  # a writable pipe takes at least PIPE_BUF bytes: pipe(7)
            data = data[os.write(descriptor, data[: select.PIPE_BUF]) :]


def log_library_stderr() -> None:
    """Keep stderr for Python; log what C libraries write on descriptor 2, up to 20 lines a minute.

    Libraries write a lot about some broken images. More lines are lost, and no library ever blocks on a
    write. faulthandler reports a fatal signal on the real stderr, because the last message on descriptor 2
    may be lost with the process. To be called before logs.configure, which looks up stderr.
    """
    _keep_stderr_for_python()
    faulthandler.enable(sys.stderr)
    pipe, write_end = os.pipe()
    os.set_blocking(write_end, False)
    os.dup2(write_end, 2)
    os.close(write_end)
    threading.Thread(target=_log_lines, args=(pipe,), daemon=True, name="stderr").start()


def discard_library_stderr() -> None:
    """Keep stderr for Python; discard what C libraries write on descriptor 2."""
    _keep_stderr_for_python()
    devnull = os.open(os.devnull, os.O_WRONLY)
    os.dup2(devnull, 2)
    os.close(devnull)


def _keep_stderr_for_python() -> None:
    global _real_stderr
    _real_stderr = os.dup(2)
    sys.stderr = _text(_real_stderr)
    if not sys.warnoptions:
        # Pillow warns of oddities in images, and Python stores the text of each warning for ever.
        warnings.simplefilter("ignore")


def _text(descriptor: int) -> TextIO:
    return open(descriptor, "w", buffering=1, errors="backslashreplace", closefd=False)


def _log_lines(pipe: int) -> None:
    """Log the lines that arrive on `pipe`, until its write end is closed."""
    readable = select.poll()
    readable.register(pipe, select.POLLIN)
    minute_began, logged, rest = time.monotonic(), 0, b""
    while data := os.read(pipe, PIPE_BYTES):
        *lines, rest = (rest + data).split(b"\n")
        if len(rest) > LINE_BYTES:
            lines, rest = [*lines, rest], b""
        if time.monotonic() - minute_began > MINUTE_S:
            minute_began, logged = time.monotonic(), 0
        for line in lines[: LINES_A_MINUTE - logged]:
            # Escaped, because parts may come from an image and a terminal would run control sequences.
            log.warning("a library wrote on stderr: %s", ascii(line[:LINE_BYTES])[2:-1])
        logged += len(lines)
        if logged >= LINES_A_MINUTE:
            log.warning("libraries write too much on stderr; what they write in the next minute is lost")
            time.sleep(MINUTE_S)  # meanwhile the pipe fills up, and further writes fail
            rest = b""
            if readable.poll(0):
                os.read(pipe, PIPE_BYTES)
