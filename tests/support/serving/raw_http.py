"""Send raw bytes to a server, which client libraries would not, and read its /proc entries."""

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
ANSWER_TIMEOUT_S = 20.0  # for the server to answer or to close; its own limits are far lower


def connect(server: Server, receive_buffer: int = 0) -> socket.socket:
    split = urlsplit(server.address)
    connection = socket.socket()
    if receive_buffer:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
    connection.settimeout(ANSWER_TIMEOUT_S)
    connection.connect((split.hostname, split.port))
    return connection


def send(connection: socket.socket, data: bytes) -> None:
    """Send data; the server may close before it has read everything."""
    with suppress(BrokenPipeError, ConnectionResetError):
        connection.sendall(data)


def rest_of(connection: socket.socket) -> bytes:
    """Receive until the server closes the connection. Raises TimeoutError if it does not."""
    received = bytearray()
    try:
        while part := connection.recv(65536):
            received += part
    except ConnectionResetError:  # closed before everything that was sent was read
        pass
    return bytes(received)


def answer_on(connection: socket.socket) -> httpx.Response:
    """Receive the next response on a connection that stays open."""
    raw = HTTPResponse(connection)
    raw.begin()
    return httpx.Response(raw.status, headers=raw.getheaders(), content=raw.read())


def answers(raw: bytes) -> list[httpx.Response]:
    """Split raw bytes into responses."""
    responses = []
    while raw:
        head, _, raw = raw.partition(b"\r\n\r\n")
        line, *lines = head.split(b"\r\n")
        pairs = [line.split(b": ", 1) for line in lines]
        headers = [(name, value) for name, value in pairs]
        size = int(dict(headers).get(b"content-length", b"0"))
        responses.append(httpx.Response(int(line.split()[1]), headers=headers, content=raw[:size]))
        raw = raw[size:]
    return responses


def exchange(server: Server, *parts: bytes) -> list[httpx.Response]:
    """Send the parts; return all responses until the server closes the connection."""
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
    """Return the resident memory of the server process, in bytes."""
    return int(Path(f"/proc/{server.process.pid}/statm").read_text().split()[1]) * 4096


def open_request(server: Server) -> socket.socket:
    """Send a request whose body stays incomplete."""
    connection = connect(server)
    connection.sendall(POST + b"Authorization: Bearer first\r\nContent-Length: 9\r\n\r\nab")
    return connection


def held_request(server: Server, **headers: str) -> socket.socket:
    """Send a complete request that stays in flight: with a long MAX_WAIT_MS, its image waits for a batch.

    Closing the connection resets it. After an ordinary close, which may be a half-close, the server would
    still compute the response.
    """
    connection = connect(server)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.sendall(request("POST", "/predict", plain(1), close=False, **headers))
    return connection


def wait_until_in_flight(server: Server, images: int = 1) -> None:
    """Wait until so many images are in flight."""
    eventually(lambda: f"\nalexnet_in_flight_images {images}.0" in server.client.get("/metrics").text)


@contextmanager
def half_sent(server: Server, body: bytes) -> Iterator[socket.socket]:
    """Open a connection and send a POST /predict without the last byte of its body."""
    with connect(server) as connection:
        connection.sendall(POST + b"Content-Length: %d\r\nExpect: 100-continue\r\n\r\n" % len(body))
        # The server asks for the body only after it has admitted the request.
        assert connection.recv(100) == b"HTTP/1.1 100 Continue\r\n\r\n"
        connection.sendall(body[:-1])
        yield connection
