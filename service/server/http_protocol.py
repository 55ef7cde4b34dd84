"""One connection: uvicorn's HTTP protocol, where its defaults do not keep this service's word. The shape of
errors, how a refused body and a client that sends no more end, and limits for what uvicorn has none for: of
the time for heads, of readers that do not read, of connections.
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
from service.server.head_timer import LAST_LOOK_S, HeadTimer
from service.server.http1 import Http1Protocol
from service.server.unread import Unread
from service.settings import Settings

# Of the body of a request that has been answered already: read, so that the client gets to read its
# answer, but not for ever.
LINGER_BYTES: Final = 100_000_000
LINGER_S: Final = 10.0
# At a stop, what an idle connection is left: a request may be on its way already.
LAST_CALL_S: Final = 0.2
# A client that says it will send no more may wait for its answer, or have gone: both look the same. Those
# that only end their half of the connection do it at once; those that have lost patience, after a while.
HALF_CLOSE_S: Final = 2.0
# Of an answer that is not read the system takes so many bytes beside what is on its way, and not 3 MB.
KERNEL_BYTES: Final = 131_072
NOT_SENT: Final[int | None] = getattr(socket, "TCP_NOTSENT_LOWAT", None)


@dataclass
class Connections:
    """What the connections of a process share: their limits, and who of them waits for a request, the one
    that has waited longest first.
    """

    settings: Settings
    count: Callable[[int], None]  # an answer of this status, given where no route was found yet
    waiting: "OrderedDict[Protocol, None]" = field(default_factory=OrderedDict)

    def __post_init__(self) -> None:
        self.origins = parse_origins(self.settings.cors_origins)
        self.unread = Unread(self.settings.write_timeout_s, self.settings.max_queue_bytes // 4)


class Protocol(Http1Protocol):
    def __init__(self, shared: Connections, **of_uvicorn: Any) -> None:
        super().__init__(shared.settings, **of_uvicorn)
        self._shared, self._settings = shared, shared.settings
        self._ending = False
        self._running: RequestResponseCycle | None = None  # the one that is worked on
        self._held: tuple[RequestResponseCycle, ASGI3Application] | None = None  # the next, until it may be
        self._lingering: asyncio.TimerHandle | None = None
        self._swallowed = 0
        self._head_timer = HeadTimer(self._settings.header_timeout_s, self._head_is_late)
        self._heard = 0.0  # when bytes came, or might have come again; of the loop's clock
        self._ended = False  # nothing more will come
        self._begun = False  # of a head, the first byte is here and the last is not
        self._loose = 0  # bytes since the request began or the last one of its body came
        self._refusal: bytes | None = None  # goes out behind the answers that are still to come

    # ---- the connection

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if NOT_SENT is not None:
            transport.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, NOT_SENT, KERNEL_BYTES)
        self._shared.waiting[self] = None
        self._head_timer.arm()
        if len(self.connections) > self._settings.max_connections:
            self._make_room()

    def _make_room(self) -> None:
        """The place of whoever has waited longest without a request, else there is none for this one."""
        longest, _ = self._shared.waiting.popitem(last=False)
        if longest is self:
            most = self._settings.max_connections
            self._refuse(503, "not_ready", f"each of the {most} connections has a request; come back later")
        else:
            longest.transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        self._end_lingering()
        self._shared.waiting.pop(self, None)
        self._shared.unread.forget(self.transport)
        self._held = None
        self._head_timer.end()
        # uvicorn knows the newest request alone, which may still wait behind the one that is worked on.
        self.pipeline.clear()
        running = self._running
        if running is not None and not running.response_complete:
            running.disconnected = True
            running.message_event.set()
            cancel_on_disconnect(cast(Scope, running.scope))
        super().connection_lost(exc)

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: ASGI3Application) -> None:
        """Not before those until then have been read, all but 64 KiB: one answer is in memory at a time."""
        if self.ahead:
            self.ahead.popleft()
        if self.flow.write_paused:
            self._held = cycle, app
        else:
            self._begin(cycle, app)

    def _begin(self, cycle: RequestResponseCycle, app: ASGI3Application) -> None:
        self._running, self._held = cycle, None
        if self._ended and cycle.more_body:
            self._close()  # the rest of its body will not come
            return
        super()._start_asgi_task(cycle, app)

    def _close(self) -> None:
        self.transport.close()  # once everything is written, however long that takes
        self._shared.unread.watch(self.transport)

    def timeout_keep_alive_handler(self) -> None:
        # Under the name by which uvicorn stops its timer, as soon as anything is read.
        self.timeout_keep_alive_task = self.loop.call_later(LAST_LOOK_S, self._close_if_idle)

    # ---- what arrives

    def data_received(self, data: bytes) -> None:
        if self._refusal is not None:
            return
        self._heard = self.loop.time()
        self._loose += len(data)
        super().data_received(data)
        if self.transport.is_closing() or self._refusal is not None:
            return
        if self._loose > self._settings.max_header_bytes:
            self._refuse(*self.too_long())
        elif self.idle and not (self._head_timer.armed or self._lingering or self.timeout_keep_alive_task):
            self._head_timer.arm()  # line ends between requests have stopped uvicorn's timer

    def eof_received(self) -> bool:  # type: ignore[override]
        """-> whether there is more to write: the answers to what has come as a whole."""
        waited = self.loop.time() - self._heard
        if self.idle or (self.cycle.more_body and not self.pipeline) or waited > HALF_CLOSE_S:
            return False
        self._ended = True
        self._head_timer.end()
        self.cycle.keep_alive = False
        return True

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._unset_keepalive_if_required()  # what `on_message_complete` has armed a moment ago
        self._loose = 0
        self._begun = True
        self._head_timer.arm()

    def on_headers_complete(self) -> None:
        if self.asks_for_upgrade():
            return
        self._begun = False
        self._head_timer.end()
        self._shared.waiting.pop(self, None)
        super().on_headers_complete()
        if self._ending:
            self.cycle.keep_alive = False

    def on_body(self, body: bytes) -> None:
        self._loose = 0
        if self._lingering is not None:
            self._swallowed += len(body)
            if self._swallowed > LINGER_BYTES:
                self._close()
        super().on_body(body)

    def on_message_complete(self) -> None:
        if self.again:
            return
        self._loose = 0
        lingered = self._lingering is not None
        self._end_lingering()
        super().on_message_complete()
        if lingered:  # uvicorn armed its timer with the answer, and the rest of the body has stopped it
            self.timeout_keep_alive_task = self.loop.call_later(
                self.timeout_keep_alive, self.timeout_keep_alive_handler
            )

    def _head_is_late(self) -> None:
        if not self.idle:
            self._head_timer.arm()  # of a request sent ahead: those before it are answered first
        elif self._begun:
            limit = self._settings.header_timeout_s
            self._refuse(408, "timeout", f"the headers did not arrive within {limit:g} s")
        else:
            self._close()

    # ---- what is answered

    def send_400_response(self, msg: str) -> None:
        self._refuse(*self.reason)

    def _refuse(self, status: int, code: str, detail: str) -> None:
        """What cannot be parsed is answered in the one shape of errors, and the connection ends."""
        origin = dict(self.headers or ()).get(b"origin", b"").decode("latin-1")
        headers = {"Connection": "close"} | cors_headers(self._shared.origins, origin)
        answer = problem_response(status, code, detail, headers)
        head = b"".join(b"%b: %b\r\n" % header for header in answer.raw_headers)
        self._refusal = STATUS_LINE[status] + head + b"\r\n" + bytes(answer.body)
        self.reason = (status, code, detail)
        self._head_timer.end()
        if self.idle:
            self._send_refusal(self.cycle is not None and self.cycle.more_body)
        elif self.cycle.more_body and not self.pipeline:
            self._send_refusal(self.cycle.response_started)  # it is this request's own body that is bad
        # Else whole requests came before it, whose answers are on their way: `on_response_complete`.

    def _send_refusal(self, answered: bool) -> None:
        """Nothing more is said where what is bad is the body of a request that was `answered`."""
        if self._refusal is not None and not answered:
            self.transport.write(self._refusal)
            self._shared.count(self.reason[0])
        self._close()

    def on_response_complete(self) -> None:
        self._heard = self.loop.time()  # of requests sent ahead reading had paused
        super().on_response_complete()
        if self.transport.is_closing():
            self._shared.unread.watch(self.transport)
            return
        if self._refusal is not None and self.idle:
            self._send_refusal(answered=False)
            return
        if self.cycle.response_complete and self.cycle.more_body:
            self._swallowed = 0
            self._lingering = self.loop.call_later(LINGER_S, self._close)
        if self.idle:
            self._shared.waiting[self] = None
        self._shared.unread.watch(self.transport)

    def _end_lingering(self) -> None:
        if self._lingering is not None:
            self._lingering.cancel()
            self._lingering = None

    # ---- whether it is read

    def pause_writing(self) -> None:
        super().pause_writing()
        self._shared.unread.watch(self.transport)

    def resume_writing(self) -> None:
        super().resume_writing()
        self._shared.unread.watch(self.transport)
        if self._held is not None and not self.transport.is_closing():
            self._begin(*self._held)

    # ---- the stop

    def shutdown(self) -> None:
        self._ending = True
        if self.idle:
            self.loop.call_later(LAST_CALL_S, self._close_if_idle)
        else:
            super().shutdown()

    def _close_if_idle(self) -> None:
        if self.idle and not self.transport.is_closing():
            self._close()
