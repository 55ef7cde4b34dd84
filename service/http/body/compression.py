"""Bodies that are sent compressed (RFC 9110, 8.4): gzip or deflate, bounded by what they unpack to."""

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
# gzip allows several members one behind another; each costs what an empty one does. Block gzip (BGZF) makes
# one of 64 KiB.
MAX_MEMBERS: Final = 1000
STEP: Final = 65_536  # bytes that are read at a time: what lies behind a member's end is copied
_inflating: Final = asyncio.Lock()  # one at a time, each with `limit` reserved


def coding_of(request: Request) -> str:
    """gzip, deflate or identity. Raises UnsupportedCoding."""
    given = [value for name, value in request.scope["headers"] if name == b"content-encoding"]
    if not given:
        return IDENTITY
    said = b", ".join(given).decode("latin-1")
    names = [name for part in said.split(",") if (name := part.strip().lower()) not in {"", IDENTITY}]
    if not names:
        return IDENTITY
    if len(names) > 1 or names[0] not in NAMES:
        raise UnsupportedCoding(f"Content-Encoding is {said[:80]!r}; use gzip or deflate, once, or none")
    return NAMES[names[0]]


async def unpack(body: bytes, coding: str, limit: int, arrived: Callable[[int], None]) -> bytes:
    """`arrived` is told of the bytes that are in memory, at first as if there were `limit`. Raises what it
    raises, and what `inflate` does.
    """
    if coding == IDENTITY:
        return body
    async with _inflating:  # whoever waits for it takes no more than has come
        arrived(limit - len(body))
        data = await run_in_reader_thread(True, inflate, body, coding, limit)
        arrived(len(data) - limit)
    return data


def inflate(body: bytes, coding: str, limit: int) -> bytes:
    """Raises InvalidRequest, or BodyTooLarge past `limit` bytes. Zeros behind the end are padding.
    No body is none, whatever coding a client names.
    """
    if not body:
        return body
    view, at, found = memoryview(body), 0, BytesIO()
    for _member in range(MAX_MEMBERS):
        stream = zlib.decompressobj(_window(coding, body))
        while not stream.eof:
            piece = view[at : at + STEP]
            if not piece:
                raise InvalidRequest(f"the {coding} body is cut off")
            try:
                found.write(stream.decompress(piece, limit + 1 - found.tell()))
            except zlib.error as error:
                raise InvalidRequest(
                    f"the body is not {coding}, as Content-Encoding says: {error}"
                ) from None
            if found.tell() > limit:
                raise BodyTooLarge(f"the body has more than the {limit} bytes that are taken, unpacked")
            at += len(piece) - len(stream.unconsumed_tail) - len(stream.unused_data)
        if at == len(body) or (body[at] == 0 and body.count(0, at) == len(body) - at):
            return found.getvalue()
        if coding != "gzip" or body[at] == 0:
            raise InvalidRequest(f"the {coding} body has bytes behind its end")
    raise InvalidRequest(f"the gzip body has more than {MAX_MEMBERS} members; send one")


def _window(coding: str, body: bytes) -> int:
    """zlib's `wbits`. Some send deflate as RFC 9110 has it, behind zlib's header, and some without one."""
    if coding == "gzip":
        return zlib.MAX_WBITS | 16
    has_header = len(body) > 1 and body[0] & 15 == 8 and (body[0] << 8 | body[1]) % 31 == 0
    return zlib.MAX_WBITS if has_header else -zlib.MAX_WBITS
