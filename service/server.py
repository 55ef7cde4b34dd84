"""uvicorn, where its defaults do not keep this service's word: the shape of errors, how a refused body
ends, the order in which a stop happens.
"""

import asyncio
import socket
import time
from collections.abc import Callable
from types import FrameType
from typing import Final, cast

import uvicorn
from starlette.types import Scope
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from service.edge import hang_up
from service.errors import problem

# Of the body of a request that has been answered already: read, so that the client gets to read its
# answer, but not for ever.
LINGER_BYTES: Final = 100_000_000
LINGER_S: Final = 10.0
# At a stop, what an idle connection is left: a request may be on its way already.
LAST_CALL_S: Final = 0.2


class Server(uvicorn.Server):
    """SIGTERM or Ctrl-C: `not_ready` is called, connections are taken for `delay` s more, so that a
    balancer sees it; then everything under way is answered, within uvicorn's
    `timeout_graceful_shutdown`. A second signal ends it at once. It stops too when `failed` says so.
    """

    def __init__(
        self,
        config: uvicorn.Config,
        not_ready: Callable[[], None],
        failed: Callable[[], bool],
        delay: float,
    ) -> None:
        super().__init__(config)
        self._failed = failed
        self._not_ready = not_ready
        self._delay = delay

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        self.force_exit = self.should_exit
        super().handle_exit(sig, frame)

    async def on_tick(self, counter: int) -> bool:
        return await super().on_tick(counter) or self._failed()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._not_ready()
        end = time.monotonic() + self._delay
        # A signal's handler wakes no event: uvicorn's own loops look ten times a second too.
        while time.monotonic() < end and not self.force_exit:  # noqa: ASYNC110
            await asyncio.sleep(0.1)
        await super().shutdown(sockets)


class Protocol(HttpToolsProtocol):
    _ending = False
    _lingering: asyncio.TimerHandle | None = None
    _swallowed = 0

    def send_400_response(self, msg: str) -> None:
        """What cannot be parsed is answered in the one shape of errors, and the connection ends."""
        answer = problem(400, "invalid_request", "this is no HTTP request", {"Connection": "close"})
        head = b"".join(b"%b: %b\r\n" % header for header in answer.raw_headers)
        self.transport.write(b"HTTP/1.1 400 Bad Request\r\n" + head + b"\r\n" + bytes(answer.body))
        self.transport.close()

    def shutdown(self) -> None:
        self._ending = True
        if self._idle:
            self.loop.call_later(LAST_CALL_S, self._close_if_idle)
        else:
            super().shutdown()

    def on_headers_complete(self) -> None:
        super().on_headers_complete()
        if self._ending:
            self.cycle.keep_alive = False

    @property
    def _idle(self) -> bool:
        return self.cycle is None or self.cycle.response_complete

    def _close_if_idle(self) -> None:
        if self._idle:
            self.transport.close()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self.cycle.response_complete and self.cycle.more_body:
            self._swallowed = 0
            self._lingering = self.loop.call_later(LINGER_S, self.transport.close)

    def on_body(self, body: bytes) -> None:
        if self._lingering is not None:
            self._swallowed += len(body)
            if self._swallowed > LINGER_BYTES:
                self.transport.close()
        super().on_body(body)

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._unset_keepalive_if_required()  # what `on_message_complete` has armed a moment ago

    def on_message_complete(self) -> None:
        lingered = self._lingering is not None
        self._end_lingering()
        super().on_message_complete()
        if lingered:  # uvicorn armed its timer with the answer, and the rest of the body has stopped it
            self.timeout_keep_alive_task = self.loop.call_later(
                self.timeout_keep_alive, self.timeout_keep_alive_handler
            )

    def connection_lost(self, exc: Exception | None) -> None:
        self._end_lingering()
        super().connection_lost(exc)
        if not self._idle:
            hang_up(cast(Scope, self.cycle.scope))

    def _end_lingering(self) -> None:
        if self._lingering is not None:
            self._lingering.cancel()
            self._lingering = None


def bound(host: str, port: int) -> socket.socket:
    """Connections are refused until `serve` listens on it. Raises OSError."""
    listener = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if listener.family == socket.AF_INET6:
        listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    listener.bind((host, port))
    return listener


def address_of(listener: socket.socket) -> str:
    """The URL to paste; one that listens everywhere is reached on the loopback."""
    host, port = listener.getsockname()[:2]
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
