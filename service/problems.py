"""Map errors to HTTP statuses and codes, and describe them as problem documents (RFC 9457)."""

from collections.abc import Mapping
from http import HTTPStatus
from typing import Final

from alexnet_client.schemas import Problem
from contract.errors import InvalidImage, TooManyPixels, UnsupportedImage
from service.errors import (
    BodyTimeout,
    BodyTooLarge,
    DeadlineExceeded,
    Forbidden,
    InvalidRequest,
    ModelError,
    NotReady,
    Overloaded,
    SchedulerClosed,
    Unauthorized,
    UnknownModel,
    UnsupportedCoding,
)

# The codes are part of the interface: clients branch on them.
STATUSES: Final[Mapping[type[Exception], tuple[int, str]]] = {
    Unauthorized: (401, "unauthorized"),
    Forbidden: (403, "forbidden"),
    UnknownModel: (404, "not_found"),
    BodyTimeout: (408, "timeout"),
    BodyTooLarge: (413, "too_large"),
    TooManyPixels: (413, "too_large"),
    UnsupportedImage: (415, "unsupported_image"),
    UnsupportedCoding: (415, "unsupported_encoding"),
    InvalidImage: (422, "invalid_image"),
    InvalidRequest: (422, "invalid_request"),
    ModelError: (422, "invalid_model"),
    Overloaded: (429, "overloaded"),
    NotReady: (503, "not_ready"),
    SchedulerClosed: (503, "not_ready"),
    DeadlineExceeded: (504, "deadline"),
}


def make_problem(status: int, code: str, detail: str) -> Problem:
    """Create a problem document from a status, a code and a message."""
    title = HTTPStatus(status).phrase
    return Problem(type="about:blank", title=title, status=status, detail=detail, code=code)


def problem_of(error: Exception) -> Problem:
    """Create the problem document of an error that `STATUSES` lists."""
    return make_problem(*STATUSES[type(error)], str(error))
