"""What happens to every request around its route: an id, the host that it names, the API key, a refusal
where there is no room for images, a stop in its middle, and the line in the log and in the metrics that it
leaves behind.
"""

import asyncio
import logging
import random
import re
import time
from typing import Final

from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.errors import NotReady, ServiceError, Unauthorized
from service.http.access.clients import Clients
from service.http.access.hosts import Hosts
from service.http.access.keys import Keys
from service.http.error_responses import bug_response, error_response, problem_response
from service.http.scope import KEY, TASK, engine_of
from service.observability.logs import REQUEST_ID, requests
from service.observability.metrics import Metrics

_ID: Final = re.compile(rb"[A-Za-z0-9._:/+=-]{1,128}")
_TRACE: Final = re.compile(rb"[0-9a-f]{2}-([0-9a-f]{32})-[0-9a-f]{16}-[0-9a-f]{2}")  # W3C traceparent


MAX_PATH: Final = 1000  # characters of a path in the log
# A server that is asked for ten times what it can do mostly refuses; here that takes half as long as in the
# route, where the Open Inference Protocol's are refused. Strangers cannot make up more of these labels.
IMAGE_ROUTES: Final = {"/predict", "/embed", "/explain"}


class RequestMiddleware:
    """Without keys none is asked for. The page and everything about health never need one."""

    def __init__(self, app: ASGIApp, hosts: Hosts, keys: Keys, metrics: Metrics, clients: Clients) -> None:
        self._app = app
        self._clients = clients
        self._hosts = hosts
        self._keys = keys
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began, status = time.perf_counter(), 500
        headers = dict(scope["headers"])
        if scope["path"].endswith("/"):
            scope["path"] = _without_slash(scope["path"])
        # uvicorn leaves the body out of an answer to HEAD, by its own scope.
        inner = scope if scope["method"] != "HEAD" else {**scope, "method": "GET"}
        request_id = _request_id(headers)
        REQUEST_ID.set(request_id)
        started = False

        async def sending(message: Message) -> None:
            nonlocal started, status
            if message["type"] == "http.response.start":
                started, status = True, message["status"]
                message["headers"] = [*message["headers"], (b"x-request-id", request_id.encode())]
            await send(message)

        scope[TASK] = asyncio.current_task()
        try:
            try:
                if wrong := self._wrong_host(scope, headers):
                    await wrong(scope, receive, sending)
                    return
                self._authorize(inner, headers)
            except ServiceError as error:
                await error_response(error, scope["path"])(scope, receive, sending)
            else:
                await self._app(inner, receive, sending)
        except Exception:
            if not started:  # here, and not by Starlette, whose answer would go around other middleware
                await bug_response(scope["path"])(scope, receive, sending)
            raise
        except asyncio.CancelledError:
            if scope[TASK] is None:  # `cancel_on_disconnect` has done it
                status = 499
                return
            # The server's time to drain is over, and it cancels what is still under way.
            if started:
                raise
            answer = error_response(
                NotReady("the server is stopping; send the request again"), scope["path"]
            )
            await answer(scope, receive, sending)
        finally:
            self._record(inner, scope["method"], status, time.perf_counter() - began)

    def _wrong_host(self, scope: Scope, headers: dict[bytes, bytes]) -> Response | None:
        pairs = scope["headers"]
        twice = pairs if len(pairs) > len(headers) else ()
        detail = self._hosts.refusal(headers.get(b"host"), scope["http_version"], twice)
        return problem_response(400, "invalid_request", detail, path=scope["path"]) if detail else None

    def _authorize(self, scope: Scope, headers: dict[bytes, bytes]) -> None:
        """Raises Unauthorized and Overloaded."""
        scope[KEY] = key = self._keys.digest_of(headers.get(b"authorization", b""))
        path = scope["path"]
        if not key and self._keys.required and not _is_open(path):
            raise Unauthorized("send a known API key as the header `Authorization: Bearer KEY`")
        if scope["method"] == "POST" and path in IMAGE_ROUTES:
            engine_of(scope).admission.require_capacity()

    def _record(self, scope: Scope, method: str, status: int, seconds: float) -> None:
        # Paths that strangers make up are one label, not one each.
        path = scope["path"]
        route = path if path in IMAGE_ROUTES else getattr(scope.get("route"), "path", "other")
        self._metrics.requests.labels(route, status).inc()
        self._metrics.request_seconds.labels(route).observe(seconds)
        if not requests.isEnabledFor(logging.INFO) or (status == 200 and _is_health(path)):
            return
        peer = scope["client"][0] if scope["client"] else None
        fields = {
            "method": method,
            "path": path[:MAX_PATH],
            "status": status,
            "ms": round(seconds * 1000, 1),
            "client": self._clients.address(peer, scope["headers"]),
        }
        requests.info("request", extra={"fields": fields})


def _without_slash(path: str) -> str:
    """A slash at a path's end is left out; but neither two of them, nor that of a file."""
    if path == "/" or path.endswith("//") or path.startswith("/static/"):
        return path
    return path[:-1]


def _is_open(path: str) -> bool:
    return path in {"/", "*"} or path.startswith("/static/") or _is_health(path)


def _is_health(path: str) -> bool:
    """What is asked every second by whoever watches the service."""
    return path == "/health" or path.startswith(("/health/", "/v2/health/"))


def _request_id(headers: dict[bytes, bytes]) -> str:
    """The client's X-Request-ID, else its trace's id, else a new one: 1 to 128 harmless characters."""
    given = headers.get(b"x-request-id", b"")
    if _ID.fullmatch(given):
        return given.decode()
    if trace := _TRACE.fullmatch(headers.get(b"traceparent", b"")):
        return trace[1].decode()
    # Not a secret. The system's random numbers cost a call in which another thread takes the interpreter.
    return f"{random.getrandbits(128):032x}"
