"""Read the images of a request's body into memory, counting its bytes as they arrive."""

import asyncio
import re
from collections.abc import AsyncGenerator, Callable, Coroutine
from dataclasses import dataclass
from io import BytesIO
from typing import Any, Final, TypeVar

from starlette.requests import ClientDisconnect, Request

from service.errors import BodyTimeout, BodyTooLarge, InvalidRequest
from service.http.body.compression import IDENTITY, coding_of, unpack
from service.http.body.form import read_form
from service.http.body.json_fields import from_base64, read_json
from service.http.body.reader_thread import MAX_INLINE_BYTES, run_in_reader_thread

MULTIPART_OVERHEAD: Final = 100_000  # bytes that a multipart body may have in addition to its files
# Bytes/s at which a client must send a body or read an answer, on average: 131 kbit/s.
MIN_RATE: Final = 16_384
# Bodies that are no image: JSON, with or without a byte order mark; URL-encoded form fields.
_JSON: Final = re.compile(rb"(?:\xef\xbb\xbf)?[ \t\r\n]*[{\[]")
_URL_FORM: Final = re.compile(rb"(?:file|images?|data)=")
T = TypeVar("T")


@dataclass(frozen=True)
class Images:
    """The image files of one request.

    `several` means that the answer is a list. `names` has the file names of a form, else None for each.
    """

    files: list[bytes]
    several: bool
    names: list[str | None]


def announced_bytes(request: Request, max_bytes: int) -> int:
    """Return the body's declared length, or `max_bytes` if it is unknown or larger."""
    declared = request.headers.get("content-length", "")
    return min(int(declared), max_bytes) if declared.isdecimal() else max_bytes


async def read_images(
    request: Request,
    max_bytes: int,
    timeout: float,
    max_images: int,
    arrived: Callable[[int], None],
    complete: Callable[[], None],
) -> Images:
    """Read up to `max_images` image files from a request's body.

    They are the multipart fields `file`, or JSON's `image` or `images` in base64, or else the bare body,
    whatever its content type. `arrived` is called with the number of bytes of each chunk, and `complete`
    once all have arrived.

    Raises BodyTooLarge, BodyTimeout (see `read_body`), UnsupportedCoding, InvalidRequest, or what `arrived`
    raises.
    """
    content_type = request.headers.get("content-type", "")
    kind = content_type.lower().partition(";")[0].strip()
    coding = coding_of(request)
    if kind == "multipart/form-data" and coding == IDENTITY:
        body = _counted(request, max_bytes + MULTIPART_OVERHEAD, max_bytes, timeout, arrived)
        images = await _images_of_form(content_type, body, max_images, max_bytes)
        complete()
    else:
        data = await read_body(request, max_bytes, timeout, arrived)
        complete()
        data = await unpack(data, coding, max_bytes, arrived)
        if kind == "multipart/form-data":
            images = await _images_of_form(content_type, data, max_images, max_bytes)
        elif kind == "application/json":
            images = await run_in_reader_thread(len(data) > MAX_INLINE_BYTES, _images_of_json, data)
        else:
            _refuse_other_kinds(data, kind)
            images = Images([data], False, [None])
    if len(images.files) > max_images:
        raise InvalidRequest(f"the request has {len(images.files)} images; the limit is {max_images}")
    if images.files == [b""]:
        raise InvalidRequest("the image is empty; send the bytes of one image file")
    return images


async def read_body(
    request: Request, max_bytes: int, timeout: float, arrived: Callable[[int], None] = lambda _size: None
) -> bytes:
    """Read the complete body, of up to `max_bytes`.

    It may take `timeout` s, and longer while its average rate is at least MIN_RATE and no pause lasts
    `timeout` s. `arrived` is called with the number of bytes of each chunk. Raises BodyTooLarge,
    BodyTimeout, InvalidRequest for a client that disconnects, or what `arrived` raises.
    """
    return await _until_disconnect(_joined(_counted(request, max_bytes, max_bytes, timeout, arrived)))


async def _until_disconnect(reading: Coroutine[Any, Any, T]) -> T:
    try:
        return await reading
    except ClientDisconnect:
        raise InvalidRequest("the client disconnected before its body was complete") from None


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
                f"the body did not arrive within {timeout:g} s, nor at {MIN_RATE} bytes per second"
            ) from None
        if chunk is None:
            return
        if not chunk:
            continue
        received += len(chunk)
        if received > limit:
            raise _too_large(max_bytes)
        arrived(len(chunk))
        end = min(end + len(chunk) / MIN_RATE, now() + timeout)
        yield chunk


async def _joined(stream: AsyncGenerator[bytes, None]) -> bytes:
    """Join the chunks in a growing buffer: joining a list would need twice the memory."""
    first = await anext(stream, b"")
    body = BytesIO(first)  # no copy, unless more chunks follow
    body.seek(len(first))
    async for chunk in stream:
        body.write(chunk)
    return body.getvalue()


async def _images_of_form(
    content_type: str, body: bytes | AsyncGenerator[bytes, None], max_images: int, max_bytes: int
) -> Images:
    files = await _until_disconnect(read_form(content_type, body, max_images))
    if sum(len(file.data) for file in files) > max_bytes:
        raise _too_large(max_bytes)
    return Images([file.data for file in files], len(files) > 1, [file.name for file in files])


def _refuse_other_kinds(body: bytes, kind: str) -> None:
    """Raise InvalidRequest for JSON or a form whose content type names something else."""
    if _JSON.match(body):
        body_type, remedy = "JSON", "with the header `Content-Type: application/json`"
    elif kind.startswith("multipart/") or _URL_FORM.match(body):
        body_type, remedy = "a form", "as multipart/form-data, as `curl -F file=@photo.jpg` does"
    else:
        return
    declared = f"its Content-Type is {kind[:80]!r}" if kind else "it has no Content-Type"
    raise InvalidRequest(f"the body is {body_type}, and {declared}; send it {remedy}")


def _images_of_json(body: bytes) -> Images:
    record = read_json(body)
    keys = [key for key in ("image", "images") if key in record]
    if len(keys) != 1:
        raise InvalidRequest('JSON must be {"image": BASE64} or {"images": [BASE64, ...]}')
    several = keys == ["images"]
    texts = record["images"] if several else [record["image"]]
    if not isinstance(texts, list) or not texts or not all(isinstance(text, str) for text in texts):
        raise InvalidRequest(
            f"`{keys[0]}` must be base64 text" + (", one or more in a list" if several else "")
        )
    try:
        return Images([from_base64(text) for text in texts], several, [None] * len(texts))
    except ValueError as error:
        raise InvalidRequest(f"`{keys[0]}` is not base64: {error}") from None


def _too_large(max_bytes: int) -> BodyTooLarge:
    return BodyTooLarge(f"the body exceeds the limit of {max_bytes} bytes")
