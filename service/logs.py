"""Logs: words for people, or one JSON object a line for machines."""

import json
import logging
import sys
import time
from contextvars import ContextVar
from typing import Any, Final

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


def configure(log_format: str) -> None:
    """text: warnings and errors on stderr, on a terminal the start too. json: those, the start and every
    request on stdout.
    """
    as_json = log_format == "json"
    handler = logging.StreamHandler(sys.stdout if as_json else sys.stderr)
    handler.setFormatter(JsonFormatter() if as_json else logging.Formatter("%(levelname)s %(message)s"))
    logging.basicConfig(handlers=[handler])
    log.setLevel(logging.INFO if as_json or sys.stderr.isatty() else logging.WARNING)
    requests.setLevel(logging.INFO if as_json else logging.WARNING)
    # A line for every odd byte that strangers send would fill the disk; the metrics count them.
    logging.getLogger("python_multipart").setLevel(logging.ERROR)
    logging.getLogger("uvicorn.error").addFilter(lambda line: line.msg != "Invalid HTTP request received.")
