"""Logs: words for people, or one JSON object a line for machines."""

import json
import logging
import os
import sys
import threading
import time
from contextlib import suppress
from contextvars import ContextVar
from queue import SimpleQueue
from typing import Any, Final

WAITING: Final = 10_000  # lines that nobody has read yet; what comes then is lost
LAST_S: Final = 1.0  # for the lines that still wait when the process ends

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
    """Writes in a thread of its own: a pipe that nobody reads, or a slow disk, holds up the log and not the
    service. Lines that are lost are counted in the first one that is not.
    """

    def __init__(self, descriptor: int) -> None:
        super().__init__()
        self._descriptor = descriptor
        self._lost = 0
        self._lines = SimpleQueue[bytes | None]()
        self._writer = threading.Thread(target=self._write, name="log", daemon=True)
        self._writer.start()

    def emit(self, record: logging.LogRecord) -> None:
        if self._lines.qsize() >= WAITING:
            self._lost += 1
            return
        if self._lost:
            lost, self._lost = self._lost, 0
            log.warning("%s lines of the log were lost: those before them were not read", lost)
        try:
            line = self.format(record) + "\n"
        except Exception:  # a mistake in what is logged ends nothing, as with logging's own handlers
            self.handleError(record)
        else:
            self._lines.put(line.encode(errors="backslashreplace"))

    def close(self) -> None:
        """Called by `logging` at the end of the process."""
        self._lines.put(None)
        self._writer.join(LAST_S)
        super().close()

    def _write(self) -> None:
        # Not by way of sys.stdout: its lock, held here, would abort the interpreter's end.
        while (line := self._lines.get()) is not None:
            with suppress(OSError):  # the disk is full, or the reader gone
                while line:
                    line = line[os.write(self._descriptor, line) :]


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
