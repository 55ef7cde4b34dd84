"""The images in a request's body, in memory, with its bytes counted as they arrive."""

import asyncio
import binascii
import zlib
from collections.abc import AsyncGenerator, Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from io import BytesIO
from typing import Any, Final, TypeVar

from starlette.requests import ClientDisconnect, Request

from service.errors import BodyTimeout, BodyTooLarge, InvalidRequest, ServiceError
from service.fields import InvalidFields, read_json
from service.form import read_form
from service.memory import trim

ENVELOPE: Final = 100_000  # bytes that the headers of a multipart body may add to its files
# Bytes/s that a client has to send of a body, or to read of an answer, after a while: 131 kbit/s.
LEAST_RATE: Final = 16_384
QUICK: Final = 100_000  # bytes of JSON that are read on the event loop, in 3 ms at most
T = TypeVar("T")
# One at a time: reading 20 MB of JSON takes up to 200 MB for a moment. A thread of its own, so that what
# else runs in asyncio's pool does not hold it up.
_reader: Final = ThreadPoolExecutor(1, "json")


@dataclass(frozen=True)
class Images:
    """The bytes of each image file; `several` says that the answer is to be a list."""

    files: list[bytes]
    several: bool


def announced_bytes(request: Request, max_bytes: int) -> int:
    """What the body will take in memory: `max_bytes` where its length is not known or is too much."""
    declared = request.headers.get("content-length", "")
    return min(int(declared), max_bytes) if declared.isdecimal() else max_bytes


async def read_images(
    request: Request, max_bytes: int, timeout: float, most: int, arrived: Callable[[int], None]
) -> Images:
    """The multipart fields `file`, `most` of them; or JSON's `image` or `images` in base64; or else the
    bare body, whatever its content type says. `arrived` is told of bytes as they come.

    Raises BodyTooLarge, BodyTimeout (see `read_body`), InvalidRequest, or what `arrived` raises.
    """
    content_type = request.headers.get("content-type", "")
    kind = content_type.lower().partition(";")[0].strip()
    if kind == "multipart/form-data":
        body = _counted(request, max_bytes + ENVELOPE, max_bytes, timeout, arrived)
        files = await _or_gone(read_form(content_type, body, most))
        if sum(map(len, files)) > max_bytes:
            raise _too_large(max_bytes)
        images = Images(files, several=len(files) > 1)
    else:
        bare = await read_body(request, max_bytes, timeout, arrived)
        if kind == "application/json":
            images = await read_apart(len(bare) > QUICK, _of_json, bare)
        else:
            images = Images([bare], several=False)
    if len(images.files) > most:
        raise InvalidRequest(f"the request has {len(images.files)} images; {most} are taken at once")
    if images.files == [b""]:
        raise InvalidRequest("the image is empty; send the bytes of one image file")
    return images


async def read_body(
    request: Request, max_bytes: int, timeout: float, arrived: Callable[[int], None] = lambda _size: None
) -> bytes:
    """All of it. It may come for `timeout` s, and for as long as LEAST_RATE is kept on average, without a
    pause of `timeout` s. Raises BodyTooLarge, BodyTimeout, InvalidRequest, or what `arrived` raises.
    """
    return await _or_gone(_joined(_counted(request, max_bytes, max_bytes, timeout, arrived)))


async def read_apart(large: bool, read: Callable[..., T], *args: Any) -> T:
    """`read`, in the one thread for such work where it is `large`. Raises what it raises."""
    if not large:
        return read(*args)
    waiting: list[Callable[[], T]] = [partial(read, *args)]
    try:
        return await asyncio.get_running_loop().run_in_executor(_reader, _read_next, waiting)
    except asyncio.CancelledError:
        waiting.clear()  # it may lie in the thread's queue for a while yet, and nobody counts it any more
        raise


def _read_next(waiting: list[Callable[[], T]]) -> T:
    try:
        return waiting.pop()()
    except (InvalidFields, ServiceError) as error:
        # Its frames, and those of what it was made from, hold all that was read of the body until then.
        error.__context__ = None
        raise error.with_traceback(None) from None


def give_freed_memory_back() -> None:
    """In the thread that reads large bodies, so that nobody else waits for it."""
    _reader.submit(trim)


def inflate(body: bytes, encoding: str, limit: int) -> bytes:
    """Of `encoding` gzip or deflate. Raises InvalidRequest, or BodyTooLarge past `limit` bytes."""
    stream = zlib.decompressobj(zlib.MAX_WBITS | 32)  # either header
    try:
        data = stream.decompress(body, limit + 1)
    except zlib.error as error:
        raise InvalidRequest(f"the body is not {encoding}, as Content-Encoding says: {error}") from None
    if len(data) > limit:
        raise _too_large(limit)
    if not stream.eof or stream.unused_data:
        raise InvalidRequest(f"the {encoding} body is cut off, or has bytes behind its end")
    return data


async def _or_gone(reading: Coroutine[Any, Any, T]) -> T:
    try:
        return await reading
    except ClientDisconnect:
        raise InvalidRequest("the client went away before its body was complete") from None


async def _counted(
    request: Request, limit: int, max_bytes: int, timeout: float, arrived: Callable[[int], None]
) -> AsyncGenerator[bytes, None]:
    declared = request.headers.get("content-length", "")
    if declared.isdecimal() and int(declared) > limit:
        raise _too_large(max_bytes)
    received, now = 0, asyncio.get_running_loop().time
    end = now() + timeout
    chunks = request.stream()
    while True:
        try:
            async with asyncio.timeout_at(end):
                chunk = await anext(chunks, None)
        except TimeoutError:
            raise BodyTimeout(
                f"the body did not arrive within {timeout:g} s, nor {LEAST_RATE} bytes of it in each second"
            ) from None
        if chunk is None:
            return
        if not chunk:
            continue
        received += len(chunk)
        if received > limit:
            raise _too_large(max_bytes)
        arrived(len(chunk))
        end = min(end + len(chunk) / LEAST_RATE, now() + timeout)
        yield chunk


async def _joined(stream: AsyncGenerator[bytes, None]) -> bytes:
    """One that grows takes its size once; a list of chunks that is joined takes it twice."""
    first = await anext(stream, b"")
    body = BytesIO(first)  # no copy, unless there is more
    body.seek(len(first))
    async for chunk in stream:
        body.write(chunk)
    return body.getvalue()


def _of_json(body: bytes) -> Images:
    record = read_json(body)
    found = [key for key in ("image", "images") if key in record]
    if len(found) != 1:
        raise InvalidRequest('JSON must be {"image": BASE64} or {"images": [BASE64, ...]}')
    several = found == ["images"]
    texts = record["images"] if several else [record["image"]]
    if not isinstance(texts, list) or not texts or not all(isinstance(text, str) for text in texts):
        raise InvalidRequest(
            f"`{found[0]}` must be base64 text" + (", one or more in a list" if several else "")
        )
    try:
        return Images([binascii.a2b_base64(text, strict_mode=True) for text in texts], several)
    except (binascii.Error, ValueError) as error:
        raise InvalidRequest(f"`{found[0]}` is not base64: {error}") from None


def _too_large(max_bytes: int) -> BodyTooLarge:
    return BodyTooLarge(f"the body has more than the {max_bytes} bytes that are taken")
