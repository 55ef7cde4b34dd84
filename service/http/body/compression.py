"""Decompress request bodies (RFC 9110, 8.4): gzip or deflate, with a limit on the unpacked size."""

import asyncio
import zlib
from collections.abc import Callable
from io import BytesIO
from typing import Final

from starlette.requests import Request

from service.errors import BodyTooLarge, InvalidRequest, UnsupportedCoding
from service.http.body.reader_thread import run_in_reader_thread

IDENTITY: Final = "identity"
NAMES: Final = {"gzip": "gzip", "x-gzip": "gzip", "deflate": "deflate"}
# gzip allows several members in a row, each of which costs time even if it is empty. Block gzip (BGZF)
# writes one per 64 KiB.
MAX_MEMBERS: Final = 1000
CHUNK_BYTES: Final = 65_536  # read at a time; small, because zlib copies what follows a member's end
_inflating: Final = asyncio.Lock()  # one body at a time, as each reserves `limit` bytes


def coding_of(request: Request) -> str:
    """Return the coding of a request's body: gzip, deflate or identity. Raises UnsupportedCoding."""
    values = [value for name, value in request.scope["headers"] if name == b"content-encoding"]
    if not values:
        return IDENTITY
    header = b", ".join(values).decode("latin-1")
    names = [name for part in header.split(",") if (name := part.strip().lower()) not in {"", IDENTITY}]
    if not names:
        return IDENTITY
    if len(names) > 1 or names[0] not in NAMES:
        raise UnsupportedCoding(f"Content-Encoding is {header[:80]!r}; use gzip or deflate, once, or none")
    return NAMES[names[0]]


async def unpack(body: bytes, coding: str, limit: int, arrived: Callable[[int], None]) -> bytes:
    """Decompress a `body` with the given coding to at most `limit` bytes.

    `arrived` is called with each change of the bytes in memory: `limit` bytes are reserved first, and
    corrected to the actual size at the end. Raises what `arrived` and `inflate` raise.
    """
    if coding == IDENTITY:
        return body
    async with _inflating:  # requests that wait here hold only their compressed bytes
        arrived(limit - len(body))
        data = await run_in_reader_thread(True, inflate, body, coding, limit)
        arrived(len(data) - limit)
    return data


def inflate(body: bytes, coding: str, limit: int) -> bytes:
    """Decompress a `body` at once, on the calling thread.

    Zeros after the end are taken for padding. An empty body stays empty, whatever the coding. Raises
    InvalidRequest for damaged data, and BodyTooLarge beyond `limit` bytes.
    """
    if not body:
        return body
    view, at, unpacked = memoryview(body), 0, BytesIO()
    for _member in range(MAX_MEMBERS):
        stream = zlib.decompressobj(_window(coding, body))
        while not stream.eof:
            chunk = view[at : at + CHUNK_BYTES]
            if not chunk:
                raise InvalidRequest(f"the {coding} body is cut off")
            try:
                unpacked.write(stream.decompress(chunk, limit + 1 - unpacked.tell()))
            except zlib.error as error:
                raise InvalidRequest(
                    f"the body is not {coding}, as Content-Encoding says: {error}"
                ) from None
            if unpacked.tell() > limit:
                raise BodyTooLarge(f"the unpacked body exceeds the limit of {limit} bytes")
            at += len(chunk) - len(stream.unconsumed_tail) - len(stream.unused_data)
        if at == len(body) or (body[at] == 0 and body.count(0, at) == len(body) - at):
            return unpacked.getvalue()
        if coding != "gzip" or body[at] == 0:
            raise InvalidRequest(f"the {coding} body has bytes after its end")
    raise InvalidRequest(f"the gzip body has more than {MAX_MEMBERS} members; send one")


def _window(coding: str, body: bytes) -> int:
    """Return zlib's `wbits`. RFC 9110 has deflate with a zlib header; some clients send it without."""
    if coding == "gzip":
        return zlib.MAX_WBITS | 16
    has_header = len(body) > 1 and body[0] & 15 == 8 and (body[0] << 8 | body[1]) % 31 == 0
    return zlib.MAX_WBITS if has_header else -zlib.MAX_WBITS
