"""Bytes on a real socket, where a client library is too well behaved, and what /proc says of a server."""

import socket
import struct
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.client import HTTPResponse
from pathlib import Path
from urllib.parse import urlsplit

import httpx

from tests.support.eventually import eventually
from tests.support.serving.images import plain
from tests.support.serving.server import Server

POST = b"POST /predict HTTP/1.1\r\nHost: x\r\n"
GET = b"GET /health/live HTTP/1.1\r\nHost: x\r\n"
PATIENCE_S = 20.0  # for a server to answer or to close; its own limits are far below


def connect(server: Server, receive_buffer: int = 0) -> socket.socket:
    split = urlsplit(server.address)
    made = socket.socket()
    if receive_buffer:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
    made.settimeout(PATIENCE_S)
    made.connect((split.hostname, split.port))
    return made


def send(connection: socket.socket, data: bytes) -> None:
    """As far as the server lets it: it may refuse and close before it has read everything."""
    with suppress(BrokenPipeError, ConnectionResetError):
        connection.sendall(data)


def rest_of(connection: socket.socket) -> bytes:
    """All that comes until the server closes. Raises TimeoutError if it does not."""
    received = bytearray()
    try:
        while part := connection.recv(65536):
            received += part
    except ConnectionResetError:  # closed while something that was sent lay unread
        pass
    return bytes(received)


def answer_on(connection: socket.socket) -> httpx.Response:
    """The next one, on a connection that stays open."""
    raw = HTTPResponse(connection)
    raw.begin()
    return httpx.Response(raw.status, headers=raw.getheaders(), content=raw.read())


def answers(raw: bytes) -> list[httpx.Response]:
    found = []
    while raw:
        head, _, raw = raw.partition(b"\r\n\r\n")
        line, *lines = head.split(b"\r\n")
        pairs = [line.split(b": ", 1) for line in lines]
        headers = [(name, value) for name, value in pairs]
        size = int(dict(headers).get(b"content-length", b"0"))
        found.append(httpx.Response(int(line.split()[1]), headers=headers, content=raw[:size]))
        raw = raw[size:]
    return found


def exchange(server: Server, *parts: bytes) -> list[httpx.Response]:
    """Sends the parts; -> everything that was answered until the server closed."""
    with connect(server) as connection:
        for part in parts:
            send(connection, part)
        return answers(rest_of(connection))


def request(method: str, path: str, body: bytes = b"", close: bool = True, **headers: str) -> bytes:
    lines = {"Host": "x", "Content-Length": str(len(body))} | ({"Connection": "close"} if close else {})
    lines |= {name.replace("_", "-"): value for name, value in headers.items()}
    head = "".join(f"{name}: {value}\r\n" for name, value in lines.items())
    return f"{method} {path} HTTP/1.1\r\n{head}\r\n".encode() + body


LIVE = request("GET", "/health/live", close=False)


def descriptors(server: Server) -> int:
    return len(list(Path(f"/proc/{server.process.pid}/fd").iterdir()))


def threads(server: Server) -> int:
    return len(list(Path(f"/proc/{server.process.pid}/task").iterdir()))


def resident(server: Server) -> int:
    """Bytes."""
    return int(Path(f"/proc/{server.process.pid}/statm").read_text().split()[1]) * 4096


def open_request(server: Server) -> socket.socket:
    """A request whose body never comes to its end."""
    connection = connect(server)
    connection.sendall(POST + b"Authorization: Bearer first\r\nContent-Length: 9\r\n\r\nab")
    return connection


def held_request(server: Server, **headers: str) -> socket.socket:
    """A whole request that stays inside: its image waits for a batch, where MAX_WAIT_MS is long. Closing it
    resets the connection: one that is merely closed may have been half-closed, and waits for its answer.
    """
    connection = connect(server)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.sendall(request("POST", "/predict", plain(1), close=False, **headers))
    return connection


def wait_until_in_flight(server: Server, images: int = 1) -> None:
    """Until so many have been admitted."""
    eventually(lambda: f"\nalexnet_in_flight_images {images}.0" in server.client.get("/metrics").text)


@contextmanager
def half_sent(server: Server, body: bytes) -> Iterator[socket.socket]:
    """A connection with all of a POST /predict on it but the last byte of the body."""
    with connect(server) as connection:
        connection.sendall(POST + b"Content-Length: %d\r\nExpect: 100-continue\r\n\r\n" % len(body))
        # That the server asks for the body is the sign that it has admitted the request.
        assert connection.recv(100) == b"HTTP/1.1 100 Continue\r\n\r\n"
        connection.sendall(body[:-1])
        yield connection
