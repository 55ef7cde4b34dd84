"""The image in a request's body, in memory, with its bytes counted as they arrive."""

import asyncio
from collections.abc import AsyncGenerator

from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import ClientDisconnect, Request

from service.errors import BodyTimeout, BodyTooLarge, InvalidRequest

ENVELOPE = 100_000  # bytes that the headers of a multipart body may add to its file


class _InMemoryParser(MultiPartParser):
    # Starlette would spool to a temporary file past 1 MB; what arrives here is already limited.
    spool_max_size = 1 << 62


def announced_bytes(request: Request, max_bytes: int) -> int:
    """What the body will take in memory: `max_bytes` where its length is not known or is too much."""
    declared = request.headers.get("content-length", "")
    return min(int(declared), max_bytes) if declared.isdecimal() else max_bytes


async def read_image(request: Request, max_bytes: int, timeout: float) -> bytes:
    """The multipart field `file`, or else the bare body, whatever its content type says.

    Raises BodyTooLarge, BodyTimeout (after `timeout` s) or InvalidRequest.
    """
    multipart = request.headers.get("content-type", "").lower().startswith("multipart/form-data")
    limit = max_bytes + (ENVELOPE if multipart else 0)
    try:
        async with asyncio.timeout(timeout):
            stream = _counted(request, limit, max_bytes)
            data = await _file_field(request, stream) if multipart else await _joined(stream)
    except TimeoutError:
        raise BodyTimeout(f"the body did not arrive within {timeout:g} s") from None
    except ClientDisconnect:
        raise InvalidRequest("the client went away before its body was complete") from None
    if not data:
        raise InvalidRequest("the image is empty; send the bytes of one image file")
    if len(data) > max_bytes:
        raise _too_large(max_bytes)
    return data


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


async def _file_field(request: Request, stream: AsyncGenerator[bytes, None]) -> bytes:
    parser = _InMemoryParser(request.headers, stream, max_files=1, max_fields=8)
    try:
        form = await parser.parse()
    except MultiPartException as error:
        raise InvalidRequest(f"the multipart body cannot be used: {error.message}") from None
    file = form.get("file")
    if not isinstance(file, UploadFile):
        raise InvalidRequest("the multipart body has no file in a field named `file`")
    return await file.read()


def _too_large(max_bytes: int) -> BodyTooLarge:
    return BodyTooLarge(f"the image has more than the {max_bytes} bytes that are taken")
