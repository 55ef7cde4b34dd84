"""The images in a request's body, in memory, with its bytes counted as they arrive."""

import asyncio
import base64
import binascii
import zlib
from collections.abc import AsyncGenerator, Coroutine
from dataclasses import dataclass
from typing import Any, TypeVar

from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import ClientDisconnect, Request

from service.errors import BodyTimeout, BodyTooLarge, InvalidRequest
from service.fields import read_json

ENVELOPE = 100_000  # bytes that the headers of a multipart body may add to its files
MOST_FIELDS = 8  # of a form that are no files
T = TypeVar("T")


class _InMemoryParser(MultiPartParser):
    # Starlette would spool to a temporary file past 1 MB; what arrives here is already limited.
    spool_max_size = 1 << 62


@dataclass(frozen=True)
class Images:
    """The bytes of each image file; `several` says that the answer is to be a list."""

    files: list[bytes]
    several: bool


def announced_bytes(request: Request, max_bytes: int) -> int:
    """What the body will take in memory: `max_bytes` where its length is not known or is too much."""
    declared = request.headers.get("content-length", "")
    return min(int(declared), max_bytes) if declared.isdecimal() else max_bytes


async def read_images(request: Request, max_bytes: int, timeout: float, most: int) -> Images:
    """The multipart fields `file`, `most` of them; or JSON's `image` or `images` in base64; or else the
    bare body, whatever its content type says.

    Raises BodyTooLarge, BodyTimeout (after `timeout` s) or InvalidRequest.
    """
    kind = request.headers.get("content-type", "").lower().partition(";")[0].strip()
    if kind == "multipart/form-data":
        images = await _in_time(_files(request, max_bytes, most), timeout)
    else:
        body = await read_body(request, max_bytes, timeout)
        if kind == "application/json":
            images = await asyncio.to_thread(_of_json, body)
        else:
            images = Images([body], several=False)
    if len(images.files) > most:
        raise InvalidRequest(f"the request has {len(images.files)} images; {most} are taken at once")
    if images.files == [b""]:
        raise InvalidRequest("the image is empty; send the bytes of one image file")
    return images


async def read_body(request: Request, max_bytes: int, timeout: float) -> bytes:
    """All of it. Raises BodyTooLarge, BodyTimeout or InvalidRequest."""
    return await _in_time(_joined(_counted(request, max_bytes, max_bytes)), timeout)


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


async def _in_time(reading: Coroutine[Any, Any, T], timeout: float) -> T:
    try:
        async with asyncio.timeout(timeout):
            return await reading
    except TimeoutError:
        raise BodyTimeout(f"the body did not arrive within {timeout:g} s") from None
    except ClientDisconnect:
        raise InvalidRequest("the client went away before its body was complete") from None


async def _counted(request: Request, limit: int, max_bytes: int) -> AsyncGenerator[bytes, None]:
    declared = request.headers.get("content-length", "")
    if declared.isdecimal() and int(declared) > limit:
        raise _too_large(max_bytes)
    received = 0
    async for chunk in request.stream():
        received += len(chunk)
        if received > limit:
            raise _too_large(max_bytes)
        yield chunk


async def _joined(stream: AsyncGenerator[bytes, None]) -> bytes:
    return b"".join([chunk async for chunk in stream])


async def _files(request: Request, max_bytes: int, most: int) -> Images:
    stream = _counted(request, max_bytes + ENVELOPE, max_bytes)
    parser = _InMemoryParser(request.headers, stream, max_files=most, max_fields=MOST_FIELDS)
    try:
        form = await parser.parse()
    except MultiPartException as error:
        raise InvalidRequest(f"the multipart body cannot be used: {error.message}") from None
    files = [await file.read() for file in form.getlist("file") if isinstance(file, UploadFile)]
    await form.close()  # its copies
    if not files:
        raise InvalidRequest("the multipart body has no file in a field named `file`")
    if sum(map(len, files)) > max_bytes:
        raise _too_large(max_bytes)
    return Images(files, several=len(files) > 1)


def _of_json(body: bytes) -> Images:
    """In a thread, because large ones take a while."""
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
        return Images([base64.b64decode(text, validate=True) for text in texts], several)
    except (binascii.Error, ValueError) as error:
        raise InvalidRequest(f"`{found[0]}` is not base64: {error}") from None


def _too_large(max_bytes: int) -> BodyTooLarge:
    return BodyTooLarge(f"the body has more than the {max_bytes} bytes that are taken")
