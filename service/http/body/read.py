"""The images in a request's body, in memory, with its bytes counted as they arrive."""

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

ENVELOPE: Final = 100_000  # bytes that the headers of a multipart body may add to its files
# Bytes/s that a client has to send of a body, or to read of an answer, after a while: 131 kbit/s.
MIN_RATE: Final = 16_384
# No image file begins like this: JSON, with a byte order mark or without; the fields of a form in a URL.
_JSON: Final = re.compile(rb"(?:\xef\xbb\xbf)?[ \t\r\n]*[{\[]")
_URL_FORM: Final = re.compile(rb"(?:file|images?|data)=")
T = TypeVar("T")


@dataclass(frozen=True)
class Images:
    """The bytes of each image file; `several` says that the answer is to be a list. `names` are those of
    the files, where a form says them.
    """

    files: list[bytes]
    several: bool
    names: list[str | None]


def announced_bytes(request: Request, max_bytes: int) -> int:
    """What the body will take in memory: `max_bytes` where its length is not known or is too much."""
    declared = request.headers.get("content-length", "")
    return min(int(declared), max_bytes) if declared.isdecimal() else max_bytes


async def read_images(
    request: Request,
    max_bytes: int,
    timeout: float,
    most: int,
    arrived: Callable[[int], None],
    complete: Callable[[], None],
) -> Images:
    """The multipart fields `file`, `most` of them; or JSON's `image` or `images` in base64; or else the
    bare body, whatever its content type says. `arrived` is told of bytes as they come, and `complete` is
    called when all are there.

    Raises BodyTooLarge, BodyTimeout (see `read_body`), UnsupportedCoding, InvalidRequest, or what `arrived`
    raises.
    """
    content_type = request.headers.get("content-type", "")
    kind = content_type.lower().partition(";")[0].strip()
    coding = coding_of(request)
    if kind == "multipart/form-data" and coding == IDENTITY:
        body = _counted(request, max_bytes + ENVELOPE, max_bytes, timeout, arrived)
        images = await _of_form(content_type, body, most, max_bytes)
        complete()
    else:
        bare = await read_body(request, max_bytes, timeout, arrived)
        complete()
        bare = await unpack(bare, coding, max_bytes, arrived)
        if kind == "multipart/form-data":
            images = await _of_form(content_type, bare, most, max_bytes)
        elif kind == "application/json":
            images = await run_in_reader_thread(len(bare) > MAX_INLINE_BYTES, _of_json, bare)
        else:
            _refuse_other_kinds(bare, kind)
            images = Images([bare], False, [None])
    if len(images.files) > most:
        raise InvalidRequest(f"the request has {len(images.files)} images; {most} are taken at once")
    if images.files == [b""]:
        raise InvalidRequest("the image is empty; send the bytes of one image file")
    return images


async def read_body(
    request: Request, max_bytes: int, timeout: float, arrived: Callable[[int], None] = lambda _size: None
) -> bytes:
    """All of it. It may come for `timeout` s, and for as long as MIN_RATE is kept on average, without a
    pause of `timeout` s. Raises BodyTooLarge, BodyTimeout, InvalidRequest, or what `arrived` raises.
    """
    return await _or_gone(_joined(_counted(request, max_bytes, max_bytes, timeout, arrived)))


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
                f"the body did not arrive within {timeout:g} s, nor {MIN_RATE} bytes of it in each second"
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
    """One that grows takes its size once; a list of chunks that is joined takes it twice."""
    first = await anext(stream, b"")
    body = BytesIO(first)  # no copy, unless there is more
    body.seek(len(first))
    async for chunk in stream:
        body.write(chunk)
    return body.getvalue()


async def _of_form(
    content_type: str, body: bytes | AsyncGenerator[bytes, None], most: int, max_bytes: int
) -> Images:
    files = await _or_gone(read_form(content_type, body, most))
    if sum(len(file.data) for file in files) > max_bytes:
        raise _too_large(max_bytes)
    return Images([file.data for file in files], len(files) > 1, [file.name for file in files])


def _refuse_other_kinds(body: bytes, kind: str) -> None:
    """Raises InvalidRequest for what is no image but would be understood under another content type."""
    if _JSON.match(body):
        found, remedy = "JSON", "with the header `Content-Type: application/json`"
    elif kind.startswith("multipart/") or _URL_FORM.match(body):
        found, remedy = "a form", "as multipart/form-data, as `curl -F file=@photo.jpg` does"
    else:
        return
    said = f"its Content-Type is {kind[:80]!r}" if kind else "it has no Content-Type"
    raise InvalidRequest(f"the body is {found}, and {said}; send it {remedy}")


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
        return Images([from_base64(text) for text in texts], several, [None] * len(texts))
    except ValueError as error:
        raise InvalidRequest(f"`{found[0]}` is not base64: {error}") from None


def _too_large(max_bytes: int) -> BodyTooLarge:
    return BodyTooLarge(f"the body has more than the {max_bytes} bytes that are taken")
