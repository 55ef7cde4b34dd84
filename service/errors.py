"""What can go wrong, the status of each, and the one shape in which it is said (RFC 9457; below /v2 that of
the Open Inference Protocol).

    ServiceError
    +-- Unauthorized      no or a wrong API key
    +-- Forbidden         not with this key
    +-- BodyTooLarge      more bytes than MAX_BODY_BYTES
    +-- BodyTimeout       the body did not arrive in time
    +-- UnsupportedCoding a Content-Encoding that is not taken
    +-- InvalidRequest    the request lacks something or contradicts itself
    +-- UnknownModel      no model of that name and version
    +-- Overloaded        MAX_QUEUE images are in the house, MAX_QUEUE_BYTES, or MAX_QUEUE_PER_KEY
    +-- NotReady          starting, draining, or the inference worker is dead
    +-- DeadlineExceeded  no answer within REQUEST_TIMEOUT_S or the client's own, shorter limit

Pictures that cannot be used are `contract.picture.ImageError`s, model files `session.ModelError`s, tensors
`fields.InvalidFields`. Anything else is our own bug: 500.
"""

from collections.abc import Mapping
from http import HTTPStatus
from typing import Any, Final

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from starlette.exceptions import HTTPException

from alexnet_client.schemas import Problem
from contract.picture import InvalidImage, TooManyPixels, UnsupportedImage
from service.fields import InvalidFields
from service.scheduling_errors import SchedulerClosed
from service.session import ModelError


class ServiceError(Exception):
    pass


class Unauthorized(ServiceError):
    pass


class Forbidden(ServiceError):
    pass


class BodyTooLarge(ServiceError):
    pass


class BodyTimeout(ServiceError):
    pass


class UnsupportedCoding(ServiceError):
    pass


class InvalidRequest(ServiceError):
    pass


class UnknownModel(ServiceError):
    pass


class Overloaded(ServiceError):
    """`retry_after` in whole seconds."""

    def __init__(self, message: str, retry_after: int) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class NotReady(ServiceError):
    pass


class DeadlineExceeded(ServiceError):
    pass


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
    InvalidFields: (422, "invalid_request"),
    ModelError: (422, "invalid_model"),
    Overloaded: (429, "overloaded"),
    NotReady: (503, "not_ready"),
    SchedulerClosed: (503, "not_ready"),
    DeadlineExceeded: (504, "deadline"),
}
ROUTING: Final = {404: "not_found", 405: "method_not_allowed"}
# After a 500 uvicorn closes the connection, so the client is told not to use it again.
HEADERS: Final = {
    401: {"WWW-Authenticate": "Bearer"},
    408: {"Connection": "close"},
    500: {"Connection": "close"},
}


def described(status: int, code: str, detail: str) -> Problem:
    title = HTTPStatus(status).phrase
    return Problem(type="about:blank", title=title, status=status, detail=detail, code=code)


def documented(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Problems as an OpenAPI description has them, each with an example."""
    codes = {status: [code for s, code in STATUSES.values() if s == status] for status in statuses}
    return {
        status: {
            "description": " or ".join(dict.fromkeys(found)),
            "content": {
                "application/problem+json": {
                    "schema": {"$ref": "#/components/schemas/Problem"},
                    "example": described(status, found[0], "what is wrong, and what to do").model_dump(),
                }
            },
        }
        for status, found in codes.items()
    }


def problem_of(error: Exception) -> Problem:
    """An error of the table, in the one shape."""
    return described(*STATUSES[type(error)], str(error))


def protocol_status(status: int) -> int:
    """The Open Inference Protocol's, which has one for all that is malformed."""
    return 400 if status in {415, 422} else status


def problem(
    status: int, code: str, detail: str, headers: Mapping[str, str] | None = None, path: str = ""
) -> Response:
    if path == "/v2" or path.startswith("/v2/"):
        return JSONResponse({"error": detail}, protocol_status(status), dict(headers or {}))
    content = described(status, code, detail).model_dump_json()
    return Response(content, status, dict(headers or {}), media_type="application/problem+json")


async def answer_known(request: Request, error: Exception) -> Response:
    return answer_to(error, request.scope["path"])


def answer_to(error: Exception, path: str) -> Response:
    """To an error of the table."""
    status, code = STATUSES[type(error)]
    headers = dict(HEADERS.get(status, {}))
    if isinstance(error, Overloaded):
        headers["Retry-After"] = str(error.retry_after)
    if isinstance(error, UnsupportedCoding):
        headers["Accept-Encoding"] = "gzip, deflate"  # RFC 9110, 15.5.16
    return problem(status, code, str(error), headers, path)


async def answer_routing(request: Request, error: Exception) -> Response:
    """Also to OPTIONS, which no route is for: every path that there is answers it."""
    assert isinstance(error, HTTPException)
    headers = dict(error.headers or {})
    if error.status_code == 405:
        headers["Allow"] = _all_allowed(headers["Allow"])
    if request.method == "OPTIONS":
        if request.scope["path"] == "*":  # the server as a whole
            return Response(status_code=204, headers={"Allow": _all_allowed("GET, POST")})
        if error.status_code == 405:
            return Response(status_code=204, headers=headers)
    code = ROUTING.get(error.status_code, "invalid_request")
    detail = f"{request.method} {request.scope['path'][:200]}: {error.detail}"
    return problem(error.status_code, code, detail, headers, request.scope["path"])


def _all_allowed(routed: str) -> str:
    """The methods that a route is for, and those that follow from them."""
    methods = {*routed.split(", "), "OPTIONS"}
    return ", ".join(sorted(methods | {"HEAD"} if "GET" in methods else methods))


async def answer_validation(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    found = (
        f"{'.'.join(str(part) for part in e['loc'])} is {str(e.get('input'))[:40]!r}: {e['msg']}"
        for e in error.errors()
    )
    return problem(422, "invalid_request", "; ".join(found), path=request.scope["path"])


def answer_to_bug(path: str) -> Response:
    """To an error that is not in the table. It is raised again afterwards: the log gets its traceback."""
    detail = "the server failed on this request; its log says why"
    return problem(500, "internal", detail, HEADERS[500], path)


def install_handlers(app: FastAPI) -> None:
    for kind in STATUSES:
        app.add_exception_handler(kind, answer_known)
    app.add_exception_handler(HTTPException, answer_routing)
    app.add_exception_handler(RequestValidationError, answer_validation)
