"""Logs: words for people, or one JSON object a line for machines."""

import json
import logging
import os
import select
import sys
import time
from collections import deque
from contextlib import suppress
from contextvars import ContextVar
from typing import Any, Final

WAITING: Final = 10_000  # lines that nobody has read yet; what comes then is lost

REQUEST_ID: Final[ContextVar[str | None]] = ContextVar("request_id", default=None)
log = logging.getLogger("alexnet")
requests = logging.getLogger("alexnet.request")


class JsonFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        line: dict[str, Any] = {
            "time": f"{stamp}.{int(record.msecs):03}Z",
            "level": record.levelname.lower(),
            "message": record.getMessage(),
        }
        if (request_id := REQUEST_ID.get()) is not None:
            line["request_id"] = request_id
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line | getattr(record, "fields", {}), ensure_ascii=False)


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
    handler.setFormatter(JsonFormatter() if as_json else logging.Formatter("%(levelname)s %(message)s"))
    logging.basicConfig(handlers=[handler])
    log.setLevel(logging.INFO if as_json or sys.stderr.isatty() else logging.WARNING)
    requests.setLevel(logging.INFO if as_json else logging.WARNING)
    # A line for every odd byte that strangers send would fill the disk; the metrics count them.
    logging.getLogger("python_multipart").setLevel(logging.ERROR)
    logging.getLogger("uvicorn.error").addFilter(lambda line: line.msg != "Invalid HTTP request received.")
