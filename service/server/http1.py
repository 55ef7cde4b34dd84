"""Extend uvicorn's HTTP/1.1 parsing: limits on headers and pipelining; upgrades are ignored."""

from collections import deque
from typing import Any, Final

import httptools
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from service.settings import Settings

# Headers of a request, trailers included; HAProxy's limit is the same. In memory each takes 180 bytes and
# its text.
MAX_HEADERS: Final = 100
# Added to a header's text when its size is counted, as in HTTP/2 (RFC 9113, 6.5.2).
HEADER_BYTES: Final = 32
# Pipelined requests that may wait on a connection, with MAX_HEADER_BYTES of headers in total. Each takes
# about 3 KB more while it waits.
MAX_PIPELINED: Final = 32


class Refused(Exception):
    """Stop parsing what has arrived; the protocol's `reason` is the error to answer."""


class Http1Protocol(HttpToolsProtocol):
    """Parse HTTP/1.x requests, within limits and without upgrades.

    llhttp ends a request that asks for an upgrade, as Java's HttpClient does (`h2c`), after its headers,
    and would take its body for the next request. So the head of such a request is parsed again without its
    Upgrade header, which RFC 9110, 7.8 allows a server to ignore. `reparse_head` is true until that is
    done.

    `pipelined_bytes` has the header bytes of each request that waits. `reason` is the status, code and
    detail of the answer to a request that is refused.
    """

    def __init__(self, settings: Settings, **uvicorn_arguments: Any) -> None:
        super().__init__(**uvicorn_arguments)
        self._max_header_bytes = settings.max_header_bytes
        self.reparse_head = False
        self.pipelined_bytes: deque[int] = deque()
        self.reason = (400, "invalid_request", "this is not an HTTP request")

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
            except httptools.HttpParserUpgrade as upgrade:
                self.reparse_head = False
                data = self._head_without_upgrade() + data[upgrade.args[0] :]
                self.parser = httptools.HttpRequestParser(self)
                self.parser.set_dangerous_leniencies(lenient_data_after_close=True)  # as uvicorn's own
            else:
                return

    def _head_without_upgrade(self) -> bytes:
        """Write the parsed head again. llhttp has checked names and values: none contains a line end."""
        version = self.parser.get_http_version().encode()
        lines = [b"%b %b HTTP/%b" % (self.parser.get_method(), self.url, version)]
        lines += [b"%b: %b" % header for header in self.headers if header[0] != b"upgrade"]
        return b"\r\n".join(lines) + b"\r\n\r\n"

    def asks_for_upgrade(self) -> bool:
        """Return whether the head that has just ended will be parsed again, without its Upgrade header.

        Raises Refused for CONNECT, after which any protocol may follow.
        """
        if self.parser.should_upgrade():
            if self.parser.get_method() == b"CONNECT":
                raise Refused
            self.reparse_head = True
        return self.reparse_head

    def on_header(self, name: bytes, value: bytes) -> None:
        super().on_header(name, value)
        if len(self.headers) > MAX_HEADERS:
            self.reason = self.too_long()
            raise Refused

    def on_headers_complete(self) -> None:
        size = len(self.url) + sum(len(name) + len(value) + HEADER_BYTES for name, value in self.headers)
        if size > self._max_header_bytes:
            self.reason = self.too_long()
            raise Refused
        if not self.idle:
            self._count_pipelined(size)
        if self.expect_100_continue and self.parser.get_http_version() == "1.0":
            self.expect_100_continue = False  # HTTP/1.0 has no 100 (RFC 9110, 10.1.1)
        if not self.url.startswith(b"/"):
            self._use_host_of_target()
        super().on_headers_complete()

    def _count_pipelined(self, size: int) -> None:
        self.pipelined_bytes.append(size)
        if len(self.pipelined_bytes) > MAX_PIPELINED or sum(self.pipelined_bytes) > self._max_header_bytes:
            detail = (
                f"{len(self.pipelined_bytes) - 1} requests already wait on this connection; the limit is "
                f"{MAX_PIPELINED}, with {self._max_header_bytes} bytes of headers; wait for answers"
            )
            self.reason = (400, "invalid_request", detail)
            raise Refused

    def _use_host_of_target(self) -> None:
        """Replace the Host header by the host of a target that is a URL (RFC 9112, 3.2.2).

        A missing header stays missing: HTTP/1.1 needs one in any case.
        """
        _scheme, separator, rest = self.url.partition(b"://")
        if separator:
            host = rest.partition(b"/")[0].partition(b"?")[0]
            self.headers[:] = [(name, host if name == b"host" else value) for name, value in self.headers]

    def too_long(self) -> tuple[int, str, str]:
        """Return the status, code and detail of the answer to headers beyond the limits."""
        detail = (
            f"the headers exceed the limit of {self._max_header_bytes} bytes or of {MAX_HEADERS} headers"
        )
        return 431, "too_large", detail
