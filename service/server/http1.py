"""Requests as uvicorn's protocol parses them, with what it leaves to others: limits of headers and of those
sent ahead; upgrades, which are ignored; the host in a request's target.
"""

from collections import deque
from typing import Any, Final

import httptools
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from service.settings import Settings

# Headers of a request, trailers included; HAProxy takes as many. In memory each is 180 bytes and its text.
MAX_HEADERS: Final = 100
# What a header counts for beside its text, as in HTTP/2 (RFC 9113, 6.5.2).
HEADER_BYTES: Final = 32
# Requests that a client may send ahead of their answers, with MAX_HEADER_BYTES of headers together; each
# takes some 3 KB more while it waits.
MAX_PIPELINED: Final = 32


class Refused(Exception):
    """Ends the parser's work on what has arrived; the protocol's `reason` says why."""


class Http1Protocol(HttpToolsProtocol):
    """Nothing but HTTP/1 is spoken. A request that asks for an upgrade, as Java's HttpClient does (`h2c`),
    ends for llhttp with its headers: its body would be the next request. So such a head is parsed again,
    without the header Upgrade, which RFC 9110, 7.8 lets a server ignore. `again`: that is still to come.
    """

    def __init__(self, settings: Settings, **of_uvicorn: Any) -> None:
        super().__init__(**of_uvicorn)
        self._max_bytes = settings.max_header_bytes
        self.again = False
        self.ahead: deque[int] = deque()  # bytes of headers of each request in the pipeline
        self.reason = (400, "invalid_request", "this is no HTTP request")

    @property
    def idle(self) -> bool:
        return self.cycle is None or self.cycle.response_complete

    def data_received(self, data: bytes) -> None:
        self._unset_keepalive_if_required()
        try:
            self._feed(data)
        except httptools.HttpParserError:
            self.send_400_response("")

    def _feed(self, data: bytes) -> None:
        while True:
            try:
                self.parser.feed_data(data)
            except httptools.HttpParserUpgrade as ended:
                self.again = False
                data = self._head_without_upgrade() + data[ended.args[0] :]
                self.parser = httptools.HttpRequestParser(self)
                self.parser.set_dangerous_leniencies(lenient_data_after_close=True)  # as uvicorn's own
            else:
                return

    def _head_without_upgrade(self) -> bytes:
        """Of names and values that llhttp has found to be such: none of them can have a line end in it."""
        version = self.parser.get_http_version().encode()
        lines = [b"%b %b HTTP/%b" % (self.parser.get_method(), self.url, version)]
        lines += [b"%b: %b" % header for header in self.headers if header[0] != b"upgrade"]
        return b"\r\n".join(lines) + b"\r\n\r\n"

    def asks_for_upgrade(self) -> bool:
        """Whether the head that has just ended is to come once more. Raises Refused for CONNECT, behind
        which anything may follow.
        """
        if self.parser.should_upgrade():
            if self.parser.get_method() == b"CONNECT":
                raise Refused
            self.again = True
        return self.again

    def on_header(self, name: bytes, value: bytes) -> None:
        super().on_header(name, value)
        if len(self.headers) > MAX_HEADERS:
            self.reason = self.too_long()
            raise Refused

    def on_headers_complete(self) -> None:
        size = len(self.url) + sum(len(name) + len(value) + HEADER_BYTES for name, value in self.headers)
        if size > self._max_bytes:
            self.reason = self.too_long()
            raise Refused
        if not self.idle:
            self._send_ahead(size)
        if self.expect_100_continue and self.parser.get_http_version() == "1.0":
            self.expect_100_continue = False  # which knows no 100 (RFC 9110, 10.1.1)
        if not self.url.startswith(b"/"):
            self._take_host_of_target()
        super().on_headers_complete()

    def _send_ahead(self, size: int) -> None:
        self.ahead.append(size)
        if len(self.ahead) > MAX_PIPELINED or sum(self.ahead) > self._max_bytes:
            detail = (
                f"{len(self.ahead) - 1} requests wait on this connection already; {MAX_PIPELINED} may, "
                f"with {self._max_bytes} bytes of headers in all; wait for answers"
            )
            self.reason = (400, "invalid_request", detail)
            raise Refused

    def _take_host_of_target(self) -> None:
        """RFC 9112, 3.2.2: the header Host is ignored where the target is a URL, but has to be there."""
        _scheme, found, rest = self.url.partition(b"://")
        if found:
            host = rest.partition(b"/")[0].partition(b"?")[0]
            self.headers[:] = [(name, host if name == b"host" else value) for name, value in self.headers]

    def too_long(self) -> tuple[int, str, str]:
        detail = (
            f"the headers have more than the {self._max_bytes} bytes that are taken, or are more than "
            f"{MAX_HEADERS}"
        )
        return 431, "too_large", detail
