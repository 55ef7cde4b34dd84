"""Handle one connection: uvicorn's HTTP protocol with this service's limits and form of errors.

Adds what uvicorn lacks: errors as problem documents; limits on the time for heads, on unread answers and on
connections; an orderly end for refused bodies and for clients that close their sending half.
"""

import asyncio
import socket
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final, cast

from starlette.types import Scope
from uvicorn._types import ASGI3Application
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, RequestResponseCycle

from service.http.access.origins import cors_headers
from service.http.error_responses import problem_response
from service.http.scope import cancel_on_disconnect
from service.parsers import parse_origins
from service.server.head_timer import GRACE_S, HeadTimer
from service.server.http1 import Http1Protocol
from service.server.unread import Unread
from service.settings import Settings

# How much of a body is read and discarded after its request has been answered. Without reading it, the
# client might never get to read its answer.
LINGER_BYTES: Final = 100_000_000
LINGER_S: Final = 10.0
# At shutdown, how long an idle connection stays open: a request may already be on its way.
SHUTDOWN_GRACE_S: Final = 0.2
# A client that closes its sending half either waits for its answer or has given up: both look the same.
# Those that wait close it right after the request; those that give up do so after some time.
HALF_CLOSE_S: Final = 2.0
# How much unsent data of an answer the kernel buffers; its default is up to 3 MB a connection.
MAX_UNSENT_BYTES: Final = 131_072
NOTSENT_LOWAT: Final[int | None] = getattr(socket, "TCP_NOTSENT_LOWAT", None)


@dataclass
class Connections:
    """Hold what the connections of a process share: limits, and the connections without a request.

    `waiting` is ordered: the connection that has been without a request for longest comes first.
    """

    settings: Settings
    count_status: Callable[[int], None]  # counts an answer of this status that no route has given
    waiting: "OrderedDict[Protocol, None]" = field(default_factory=OrderedDict)

    def __post_init__(self) -> None:
        self.origins = parse_origins(self.settings.cors_origins)
        self.unread = Unread(self.settings.write_timeout_s, self.settings.max_queue_bytes // 4)


class Protocol(Http1Protocol):
    """Serve one connection, within the limits that `shared` has for all of them."""

    def __init__(self, shared: Connections, **uvicorn_arguments: Any) -> None:
        super().__init__(shared.settings, **uvicorn_arguments)
        self._shared, self._settings = shared, shared.settings
        self._shutting_down = False
        self._current: RequestResponseCycle | None = None  # the request that is being answered
        self._next: tuple[RequestResponseCycle, ASGI3Application] | None = None  # waits
        self._linger_timer: asyncio.TimerHandle | None = None
        self._discarded_bytes = 0
        self._head_timer = HeadTimer(self._settings.header_timeout_s, self._head_timed_out)
        self._last_read = 0.0  # loop time of the last bytes, or of the end of a pause in reading
        self._half_closed = False  # the client sends no more
        self._in_head = False  # a part of a head has arrived
        self._bytes_outside_body = 0  # since the head began, or since the last byte of the body
        self._refusal: bytes | None = None  # is sent after the answers that are still due

    # ---- the connection

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if NOTSENT_LOWAT is not None:
            transport.get_extra_info("socket").setsockopt(
                socket.IPPROTO_TCP, NOTSENT_LOWAT, MAX_UNSENT_BYTES
            )
        self._shared.waiting[self] = None
        self._head_timer.arm()
        if len(self.connections) > self._settings.max_connections:
            self._replace_idle()

    def _replace_idle(self) -> None:
        """Abort the connection that has been idle for longest; without one, refuse this connection."""
        oldest, _ = self._shared.waiting.popitem(last=False)
        if oldest is self:
            limit = self._settings.max_connections
            self._refuse(503, "not_ready", f"all {limit} connections are busy; try again later")
        else:
            oldest.transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_lingering()
        self._shared.waiting.pop(self, None)
        self._shared.unread.forget(self.transport)
        self._next = None
        self._head_timer.cancel()
        # uvicorn only knows the newest request, which may still wait for the one that is being answered.
        self.pipeline.clear()
        current = self._current
        if current is not None and not current.response_complete:
            current.disconnected = True
            current.message_event.set()
            cancel_on_disconnect(cast(Scope, current.scope))
        super().connection_lost(exc)

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: ASGI3Application) -> None:
        """Start a request once earlier answers have been read up to 64 KiB: one at a time is in memory."""
        if self.pipelined_bytes:
            self.pipelined_bytes.popleft()
        if self.flow.write_paused:
            self._next = cycle, app
        else:
            self._start(cycle, app)

    def _start(self, cycle: RequestResponseCycle, app: ASGI3Application) -> None:
        self._current, self._next = cycle, None
        if self._half_closed and cycle.more_body:
            self._close()  # the rest of the body will not arrive
            return
        super()._start_asgi_task(cycle, app)

    def _close(self) -> None:
        self.transport.close()  # after everything has been written, however long that takes
        self._shared.unread.watch(self.transport)

    def timeout_keep_alive_handler(self) -> None:
        # Stored in uvicorn's attribute, so that uvicorn cancels it as soon as anything is read.
        self.timeout_keep_alive_task = self.loop.call_later(GRACE_S, self._close_if_idle)

    # ---- reading

    def data_received(self, data: bytes) -> None:
        if self._refusal is not None:
            return
        self._last_read = self.loop.time()
        self._bytes_outside_body += len(data)
        super().data_received(data)
        if self.transport.is_closing() or self._refusal is not None:
            return
        if self._bytes_outside_body > self._settings.max_header_bytes:
            self._refuse(*self.too_long())
        elif self.idle and not (
            self._head_timer.armed or self._linger_timer or self.timeout_keep_alive_task
        ):
            self._head_timer.arm()  # line ends between requests have cancelled uvicorn's timer

    def eof_received(self) -> bool:  # type: ignore[override]
        """Return whether answers to complete requests are still to be written; if not, close."""
        silent_s = self.loop.time() - self._last_read
        if self.idle or (self.cycle.more_body and not self.pipeline) or silent_s > HALF_CLOSE_S:
            return False
        self._half_closed = True
        self._head_timer.cancel()
        self.cycle.keep_alive = False
        return True

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._unset_keepalive_if_required()  # armed by `on_message_complete` a moment ago
        self._bytes_outside_body = 0
        self._in_head = True
        self._head_timer.arm()

    def on_headers_complete(self) -> None:
        if self.asks_for_upgrade():
            return
        self._in_head = False
        self._head_timer.cancel()
        self._shared.waiting.pop(self, None)
        super().on_headers_complete()
        if self._shutting_down:
            self.cycle.keep_alive = False

    def on_body(self, body: bytes) -> None:
        self._bytes_outside_body = 0
        if self._linger_timer is not None:
            self._discarded_bytes += len(body)
            if self._discarded_bytes > LINGER_BYTES:
                self._close()
        super().on_body(body)

    def on_message_complete(self) -> None:
        if self.reparse_head:
            return
        self._bytes_outside_body = 0
        lingered = self._linger_timer is not None
        self._stop_lingering()
        super().on_message_complete()
        # uvicorn armed its timer with the answer, and reading the rest of the body cancelled it.
        if lingered:
            self.timeout_keep_alive_task = self.loop.call_later(
                self.timeout_keep_alive, self.timeout_keep_alive_handler
            )

    def _head_timed_out(self) -> None:
        if not self.idle:
            self._head_timer.arm()  # a pipelined request: those before it are answered first
        elif self._in_head:
            limit = self._settings.header_timeout_s
            self._refuse(408, "timeout", f"the headers did not arrive within {limit:g} s")
        else:
            self._close()

    # ---- answering

    def send_400_response(self, msg: str) -> None:
        self._refuse(*self.reason)

    def _refuse(self, status: int, code: str, detail: str) -> None:
        """Answer what cannot be parsed with a problem document, and close the connection."""
        origin = dict(self.headers or ()).get(b"origin", b"").decode("latin-1")
        headers = {"Connection": "close"} | cors_headers(self._shared.origins, origin)
        answer = problem_response(status, code, detail, headers)
        head = b"".join(b"%b: %b\r\n" % header for header in answer.raw_headers)
        self._refusal = STATUS_LINE[status] + head + b"\r\n" + bytes(answer.body)
        self.reason = (status, code, detail)
        self._head_timer.cancel()
        if self.idle:
            self._send_refusal(self.cycle is not None and self.cycle.more_body)
        elif self.cycle.more_body and not self.pipeline:
            self._send_refusal(self.cycle.response_started)  # the body of this request is bad
        # Otherwise earlier requests are still being answered: `on_response_complete` sends the refusal.

    def _send_refusal(self, answered: bool) -> None:
        """Send the refusal, unless it concerns the body of a request already `answered`; then close."""
        if self._refusal is not None and not answered:
            self.transport.write(self._refusal)
            self._shared.count_status(self.reason[0])
        self._close()

    def on_response_complete(self) -> None:
        self._last_read = self.loop.time()  # reading was paused while requests were pipelined
        super().on_response_complete()
        if self.transport.is_closing():
            self._shared.unread.watch(self.transport)
            return
        if self._refusal is not None and self.idle:
            self._send_refusal(answered=False)
            return
        if self.cycle.response_complete and self.cycle.more_body:
            self._discarded_bytes = 0
            self._linger_timer = self.loop.call_later(LINGER_S, self._close)
        if self.idle:
            self._shared.waiting[self] = None
        self._shared.unread.watch(self.transport)

    def _stop_lingering(self) -> None:
        if self._linger_timer is not None:
            self._linger_timer.cancel()
            self._linger_timer = None

    # ---- flow control

    def pause_writing(self) -> None:
        super().pause_writing()
        self._shared.unread.watch(self.transport)

    def resume_writing(self) -> None:
        super().resume_writing()
        self._shared.unread.watch(self.transport)
        if self._next is not None and not self.transport.is_closing():
            self._start(*self._next)

    # ---- shutdown

    def shutdown(self) -> None:
        self._shutting_down = True
        if self.idle:
            self.loop.call_later(SHUTDOWN_GRACE_S, self._close_if_idle)
        else:
            super().shutdown()

    def _close_if_idle(self) -> None:
        if self.idle and not self.transport.is_closing():
            self._close()
