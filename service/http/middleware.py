"""Wrap every request: request id, host and API key checks, early 429, cancellation, log and metrics.

Requests that are cancelled are answered 503 where the server stops, and counted as 499 where the client has
disconnected.
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
# Under overload most requests are refused: here that takes half as long as in the route, which refuses
# those of the Open Inference Protocol. The set is fixed, so that clients cannot create metric labels.
IMAGE_ROUTES: Final = {"/predict", "/embed", "/explain"}


class RequestMiddleware:
    """Check, log and count the HTTP requests of `app`.

    An API key is required only where API_KEYS_FILE is set, and never for the page and the health routes.
    """

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
        started_at, status = time.perf_counter(), 500
        headers = dict(scope["headers"])
        if scope["path"].endswith("/"):
            scope["path"] = _without_slash(scope["path"])
        # HEAD is routed as GET; uvicorn leaves the body out because its own scope still says HEAD.
        inner = scope if scope["method"] != "HEAD" else {**scope, "method": "GET"}
        request_id = _request_id(headers)
        REQUEST_ID.set(request_id)
        started = False

        async def send_with_id(message: Message) -> None:
            nonlocal started, status
            if message["type"] == "http.response.start":
                started, status = True, message["status"]
                message["headers"] = [*message["headers"], (b"x-request-id", request_id.encode())]
            await send(message)

        scope[TASK] = asyncio.current_task()
        try:
            try:
                if refusal := self._host_error(scope, headers):
                    await refusal(scope, receive, send_with_id)
                    return
                self._authorize(inner, headers)
            except ServiceError as error:
                await error_response(error, scope["path"])(scope, receive, send_with_id)
            else:
                await self._app(inner, receive, send_with_id)
        except Exception:
            if not started:  # Starlette's own answer would bypass the other middleware
                await bug_response(scope["path"])(scope, receive, send_with_id)
            raise
        except asyncio.CancelledError:
            if scope[TASK] is None:  # cancelled by `cancel_on_disconnect`
                status = 499
                return
            # The drain is over: the server cancels the requests that are still in flight.
            if started:
                raise
            response = error_response(
                NotReady("the server is stopping; send the request again"), scope["path"]
            )
            await response(scope, receive, send_with_id)
        finally:
            self._record(inner, scope["method"], status, time.perf_counter() - started_at)

    def _host_error(self, scope: Scope, headers: dict[bytes, bytes]) -> Response | None:
        pairs = scope["headers"]
        repeated = pairs if len(pairs) > len(headers) else ()
        detail = self._hosts.refusal(headers.get(b"host"), scope["http_version"], repeated)
        return problem_response(400, "invalid_request", detail, path=scope["path"]) if detail else None

    def _authorize(self, scope: Scope, headers: dict[bytes, bytes]) -> None:
        """Check the API key, and the free capacity for routes that take images.

        Raises Unauthorized and Overloaded.
        """
        scope[KEY] = key = self._keys.digest_of(headers.get(b"authorization", b""))
        path = scope["path"]
        if not key and self._keys.required and not _is_open(path):
            raise Unauthorized("send a known API key as the header `Authorization: Bearer KEY`")
        if scope["method"] == "POST" and path in IMAGE_ROUTES:
            engine_of(scope).admission.require_capacity()

    def _record(self, scope: Scope, method: str, status: int, seconds: float) -> None:
        # Unknown paths share one label: else clients could create any number of them.
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
    """Remove one slash from the end of a path, except of the root, of `//` and of static files."""
    if path == "/" or path.endswith("//") or path.startswith("/static/"):
        return path
    return path[:-1]


def _is_open(path: str) -> bool:
    return path in {"/", "*"} or path.startswith("/static/") or _is_health(path)


def _is_health(path: str) -> bool:
    """Return whether the path is a health route, which monitors request every second."""
    return path == "/health" or path.startswith(("/health/", "/v2/health/"))


def _request_id(headers: dict[bytes, bytes]) -> str:
    """Return X-Request-ID if valid, else the id of the client's trace, else a new one.

    Valid are 1 to 128 characters of `_ID`, which are safe in logs and headers.
    """
    client_id = headers.get(b"x-request-id", b"")
    if _ID.fullmatch(client_id):
        return client_id.decode()
    if trace := _TRACE.fullmatch(headers.get(b"traceparent", b"")):
        return trace[1].decode()
    # Not a secret, so no os.urandom(): its system call releases the GIL, which another thread then takes.
    return f"{random.getrandbits(128):032x}"
