"""Logs: words for people, or one JSON object a line for machines."""

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

WAITING: Final = 10_000  # lines that nobody has read yet; what comes then is lost

MAX_TEXT: Final = 4_000  # characters of a message, and of a traceback, of which the end is kept

# Not as they are: control characters (C0, DEL, C1), which move a terminal's cursor; what separates lines or
# paragraphs; what turns the direction of text; and halves of pairs, which are no UTF-8.
_ODD: Final = re.compile(
    r"[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff\ud800-\udfff]"
)
REQUEST_ID: Final[ContextVar[str | None]] = ContextVar("request_id", default=None)
log = logging.getLogger("alexnet")
requests = logging.getLogger("alexnet.request")


def escaped(text: str) -> str:
    return _ODD.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


class TextFormatter(logging.Formatter):
    """A line, and the lines of a traceback below it, indented so that none of them looks like an entry."""

    def __init__(self) -> None:
        super().__init__("%(levelname)s %(message)s")

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802
        record.message = cut(record.message)
        request_id = REQUEST_ID.get()
        of = "" if request_id is None else f" (request {request_id})"
        return escaped(super().formatMessage(record)) + of

    def formatException(self, ei: Any) -> str:  # noqa: N802
        lines = super().formatException(ei)[-MAX_TEXT:].split("\n")
        return "\n".join(f"  {escaped(line)}" for line in lines)


class JsonFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        line: dict[str, Any] = {
            "time": f"{stamp}.{int(record.msecs):03}Z",
            "level": record.levelname.lower(),
            "message": cut(record.getMessage()),
        }
        if (request_id := REQUEST_ID.get()) is not None:
            line["request_id"] = request_id
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)[-MAX_TEXT:]
        return escaped(json.dumps(line | getattr(record, "fields", {}), ensure_ascii=False))


def cut(text: str) -> str:
    return text if len(text) <= MAX_TEXT else f"{text[:MAX_TEXT]}... ({len(text)} characters)"


class Handler(logging.Handler):
    """Writes only what its reader has room for: a pipe that nobody reads holds up the log and not the
    service. Lines that are lost are counted in the first one that is not.
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
        if len(self._lines) >= WAITING:
            self._lost += 1
            return
        if self._lost:
            lost, self._lost = self._lost, 0
            log.warning("%s lines of the log were lost: those before them were not read", lost)
        try:
            line = self.format(record) + "\n"
        except Exception:  # a mistake in what is logged ends nothing, as with logging's own handlers
            self.handleError(record)
            return
        self._lines.append(line.encode(errors="backslashreplace"))
        self.flush()

    def flush(self) -> None:
        # Where there is room at all, there is room for so much: pipe(7).
        while self._lines and self._room.poll(0):
            line = self._lines.popleft()
            with suppress(OSError):  # the disk is full, or the reader gone
                if rest := line[os.write(self._descriptor, line[: select.PIPE_BUF]) :]:
                    self._lines.appendleft(rest)


def configure(log_format: str) -> None:
    """text: warnings and errors on stderr, on a terminal the start too. json: those, the start and every
    request on stdout.
    """
    as_json = log_format == "json"
    handler = Handler((sys.stdout if as_json else sys.stderr).fileno())
    handler.setFormatter(JsonFormatter() if as_json else TextFormatter())
    logging.basicConfig(handlers=[handler])
    log.setLevel(logging.INFO if as_json or sys.stderr.isatty() else logging.WARNING)
    requests.setLevel(logging.INFO if as_json else logging.WARNING)
    # A line for every odd byte that strangers send would fill the disk; the metrics count them.
    logging.getLogger("python_multipart").setLevel(logging.ERROR)
    logging.getLogger("uvicorn.error").addFilter(lambda line: line.msg != "Invalid HTTP request received.")
