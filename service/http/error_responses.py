"""Build error responses: problem documents (RFC 9457), and Open Inference Protocol errors below /v2."""

from collections.abc import Mapping
from typing import Any, Final

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from starlette.exceptions import HTTPException

from service.errors import Overloaded, UnsupportedCoding
from service.problems import STATUSES, make_problem

ROUTING_CODES: Final = {404: "not_found", 405: "method_not_allowed"}
# uvicorn closes the connection after a 500; the header keeps clients from reusing it.
HEADERS: Final = {
    401: {"WWW-Authenticate": "Bearer"},
    408: {"Connection": "close"},
    500: {"Connection": "close"},
}


def document_problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Describe the problems of these statuses for OpenAPI, each with an example."""
    codes = {
        status: [code for code_status, code in STATUSES.values() if code_status == status]
        for status in statuses
    }
    return {
        status: {
            "description": " or ".join(dict.fromkeys(status_codes)),
            "content": {
                "application/problem+json": {
                    "schema": {"$ref": "#/components/schemas/Problem"},
                    "example": make_problem(
                        status, status_codes[0], "what is wrong, and what to do"
                    ).model_dump(),
                }
            },
        }
        for status, status_codes in codes.items()
    }


def protocol_status(status: int) -> int:
    """Map a status to the Open Inference Protocol's: it has only 400 for malformed requests."""
    return 400 if status in {415, 422} else status


def problem_response(
    status: int, code: str, detail: str, headers: Mapping[str, str] | None = None, path: str = ""
) -> Response:
    """Build the response for a problem, in the format of the path's protocol."""
    if path == "/v2" or path.startswith("/v2/"):
        return JSONResponse({"error": detail}, protocol_status(status), dict(headers or {}))
    content = make_problem(status, code, detail).model_dump_json()
    return Response(content, status, dict(headers or {}), media_type="application/problem+json")


def error_response(error: Exception, path: str) -> Response:
    """Build the response for an error that `STATUSES` lists."""
    status, code = STATUSES[type(error)]
    headers = dict(HEADERS.get(status, {}))
    if isinstance(error, Overloaded):
        headers["Retry-After"] = str(error.retry_after)
    if isinstance(error, UnsupportedCoding):
        headers["Accept-Encoding"] = "gzip, deflate"  # RFC 9110, 15.5.16
    return problem_response(status, code, str(error), headers, path)


def bug_response(path: str) -> Response:
    """Build the 500 for an unexpected error. The caller re-raises it, so that its traceback is logged."""
    detail = "the server failed on this request; its log says why"
    return problem_response(500, "internal", detail, HEADERS[500], path)


def install_handlers(app: FastAPI) -> None:
    """Register handlers for the errors of `STATUSES`, of routing and of validation."""
    for kind in STATUSES:
        app.add_exception_handler(kind, _handle_known)
    app.add_exception_handler(HTTPException, _handle_routing)
    app.add_exception_handler(RequestValidationError, _handle_validation)


# Coroutines: Starlette would run plain functions in threads, which an overload would exhaust.
async def _handle_known(request: Request, error: Exception) -> Response:
    return error_response(error, request.scope["path"])


async def _handle_routing(request: Request, error: Exception) -> Response:
    """Report a routing error; answer OPTIONS, which has no routes, on every existing path."""
    assert isinstance(error, HTTPException)
    headers = dict(error.headers or {})
    if error.status_code == 405:
        headers["Allow"] = _all_allowed(headers["Allow"])
    if request.method == "OPTIONS":
        if request.scope["path"] == "*":  # the server as a whole
            return Response(status_code=204, headers={"Allow": _all_allowed("GET, POST")})
        if error.status_code == 405:
            return Response(status_code=204, headers=headers)
    code = ROUTING_CODES.get(error.status_code, "invalid_request")
    detail = f"{request.method} {request.scope['path'][:200]}: {error.detail}"
    return problem_response(error.status_code, code, detail, headers, request.scope["path"])


def _all_allowed(routed: str) -> str:
    """Add OPTIONS and, where GET is routed, HEAD to the methods of a route."""
    methods = {*routed.split(", "), "OPTIONS"}
    return ", ".join(sorted(methods | {"HEAD"} if "GET" in methods else methods))


async def _handle_validation(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    details = (
        f"{'.'.join(str(part) for part in e['loc'])} is {str(e.get('input'))[:40]!r}: {e['msg']}"
        for e in error.errors()
    )
    return problem_response(422, "invalid_request", "; ".join(details), path=request.scope["path"])
