"""Logging in two formats: text for people, or one JSON object per line."""

import json
import logging
import os
import re
import select
import sys
import time
from collections import deque
from contextlib import suppress
from contextvars import ContextVar
from typing import Any, Final

MAX_WAITING_LINES: Final = 10_000  # not yet read; further lines are dropped

MAX_TEXT: Final = 4_000  # characters of a message, and of a traceback, whose end is kept

# Escaped: control characters (C0, DEL, C1), which can control a terminal; line and paragraph separators;
# characters that change the text direction; and lone surrogates, which are invalid in UTF-8.
_UNSAFE: Final = re.compile(
    r"[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff\ud800-\udfff]"
)
REQUEST_ID: Final[ContextVar[str | None]] = ContextVar("request_id", default=None)
log = logging.getLogger("alexnet")
requests = logging.getLogger("alexnet.request")


def escape(text: str) -> str:
    """Replace characters that could control a terminal or forge a log line by `\\uXXXX`."""
    return _UNSAFE.sub(lambda match: f"\\u{ord(match[0]):04x}", text)


class TextFormatter(logging.Formatter):
    """Format a line, with the traceback indented below it so that no line of it looks like an entry."""

    def __init__(self) -> None:
        super().__init__("%(levelname)s %(message)s")

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802
        record.message = truncate(record.message)
        request_id = REQUEST_ID.get()
        suffix = "" if request_id is None else f" (request {request_id})"
        return escape(super().formatMessage(record)) + suffix

    def formatException(self, ei: Any) -> str:  # noqa: N802
        lines = super().formatException(ei)[-MAX_TEXT:].split("\n")
        return "\n".join(f"  {escape(line)}" for line in lines)


class JsonFormatter(logging.Formatter):
    """Format a record as one JSON object."""

    def format(self, record: logging.LogRecord) -> str:
        seconds = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        line: dict[str, Any] = {
            "time": f"{seconds}.{int(record.msecs):03}Z",
            "level": record.levelname.lower(),
            "message": truncate(record.getMessage()),
        }
        if (request_id := REQUEST_ID.get()) is not None:
            line["request_id"] = request_id
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)[-MAX_TEXT:]
        return escape(json.dumps(line | getattr(record, "fields", {}), ensure_ascii=False))


def truncate(text: str) -> str:
    """Cut a message to MAX_TEXT characters; append its original length."""
    return text if len(text) <= MAX_TEXT else f"{text[:MAX_TEXT]}... ({len(text)} characters)"


class Handler(logging.Handler):
    """Write without blocking: a pipe that is not read delays the log, not the service.

    Up to MAX_WAITING_LINES are buffered; further lines are dropped, and a warning reports their number.
    """

    def __init__(self, descriptor: int) -> None:
        super().__init__()
        self._descriptor = descriptor
        self._lines: deque[bytes] = deque()
        self._lost = 0
        self._room = select.poll()
        self._room.register(descriptor, select.POLLOUT)

    def emit(self, record: logging.LogRecord) -> None:
        self.flush()
        if len(self._lines) >= MAX_WAITING_LINES:
            self._lost += 1
            return
        if self._lost:
            lost, self._lost = self._lost, 0
            log.warning("%s log lines were lost: the reader of the log is too slow", lost)
        try:
            line = self.format(record) + "\n"
        except Exception:  # as in logging's own handlers, a faulty log call must not raise
            self.handleError(record)
            return
        self._lines.append(line.encode(errors="backslashreplace"))
        self.flush()

    def flush(self) -> None:
        # poll() reports a pipe as writable only if PIPE_BUF bytes fit: pipe(7).
        while self._lines and self._room.poll(0):
            line = self._lines.popleft()
            with suppress(OSError):  # the disk is full, or the reader has gone
                if rest := line[os.write(self._descriptor, line[: select.PIPE_BUF]) :]:
                    self._lines.appendleft(rest)


def configure(log_format: str) -> None:
    """Configure logging.

    `text`: warnings and errors on stderr, and on a terminal the start. `json`: warnings, errors, the start
    and every request on stdout.
    """
    as_json = log_format == "json"
    handler = Handler((sys.stdout if as_json else sys.stderr).fileno())
    handler.setFormatter(JsonFormatter() if as_json else TextFormatter())
    logging.basicConfig(handlers=[handler])
    log.setLevel(logging.INFO if as_json or sys.stderr.isatty() else logging.WARNING)
    requests.setLevel(logging.INFO if as_json else logging.WARNING)
    # A line per malformed request would let untrusted clients fill the disk; the metrics count them.
    logging.getLogger("python_multipart").setLevel(logging.ERROR)
    logging.getLogger("uvicorn.error").addFilter(lambda line: line.msg != "Invalid HTTP request received.")
