"""Multipart forms: the files in their fields `file`, in memory. Nothing that a client names, such as a
charset, chooses how it is read: names and values are UTF-8. A file's name is for the answer alone.
"""

import asyncio
import re
from collections.abc import AsyncIterable, AsyncIterator
from io import BytesIO
from typing import Final, NamedTuple
from urllib.parse import unquote_to_bytes

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from contract.formats.signatures import sniff
from service.errors import InvalidRequest

MAX_FIELDS: Final = 8  # that are no files
MAX_VALUE: Final = 1_000_000  # bytes of such a field
MAX_NAME: Final = 255  # bytes of a file's name
SLICE: Final = 65_536  # bytes of a whole form that are read at a time
# RFC 7578 knows no charset of a form; that of the text in it is UTF-8, of which ASCII is a part.
CHARSETS: Final = {b"utf-8", b"utf8", b"us-ascii"}
# A file's name in RFC 8187's form, which RFC 7578 forbids and some clients send alone; not inside quotes.
_EXTENDED_NAME: Final = re.compile(rb'(?i)(?:[^"]|"(?:[^"\\]|\\.)*")*?;[ \t]*filename\*(?:=([^;]*))?')


class File(NamedTuple):
    name: str | None  # as the client says it
    data: bytes


async def read_form(content_type: str, body: bytes | AsyncIterable[bytes], most: int) -> list[File]:
    """The files in the fields `file`, in their order, from a `body` that arrives or is there as a whole.
    Raises InvalidRequest, also where there is none, or more than `most` files in all.
    """
    _, options = parse_options_header(content_type)
    charset = options.get(b"charset", b"utf-8")
    if charset.lower() not in CHARSETS:
        said = charset[:40].decode("latin-1")
        raise InvalidRequest(f"the charset of the form is {said!r}; use utf-8, or leave it out")
    boundary = options.get(b"boundary")
    if not boundary:
        raise _unusable("its Content-Type has no boundary")
    if isinstance(body, bytes):
        body = _slices(body)
    form = _Form(most)
    try:
        parser = MultipartParser(
            boundary,
            {
                "on_part_begin": form.begin_part,
                "on_header_begin": form.begin_header,
                "on_header_field": form.add_to_header_name,
                "on_header_value": form.add_to_header_value,
                "on_header_end": form.end_header,
                "on_headers_finished": form.end_headers,
                "on_part_data": form.add_data,
                "on_part_end": form.end_part,
                "on_end": form.end,
            },
        )
        async for chunk in _from_first_part(body, b"--" + boundary, most):
            parser.write(chunk)
    except FormParserError as error:
        raise _unusable(str(error)) from None
    form.require_end(boundary)
    form.require_file()
    return form.files


async def _slices(body: bytes) -> AsyncIterator[bytes]:
    for at in range(0, len(body), SLICE):
        yield body[at : at + SLICE]
        await asyncio.sleep(0)  # others have their turn, as while a body arrives


async def _from_first_part(body: AsyncIterable[bytes], delimiter: bytes, most: int) -> AsyncIterator[bytes]:
    """Without a preamble (RFC 2046, 5.1.1), which the parser does not know. Raises InvalidRequest, also for
    more delimiters than `most` files have: each takes the parser 1 us, and 20 MB of them, which unpack from
    20 KB, would take seconds.
    """
    left = most + MAX_FIELDS + 1
    before: bytes | None = b"\n"  # the end of what has come without a delimiter; None behind the first one
    async for chunk in body:
        if before is not None:
            at = 0
            if before != b"\n" or not chunk.startswith(delimiter):
                chunk = before + chunk
                at = chunk.find(b"\n" + delimiter) + 1
                if not at:
                    before = chunk[-len(delimiter) :]
                    continue
            if chunk.startswith(b"\n", at + len(delimiter)):
                raise _unusable("its lines end with LF alone; end them with CRLF")
            before, chunk = None, chunk[at:]
        left -= chunk.count(b"\n" + delimiter)
        if left < 0:
            raise _unusable(f"it has too many parts; {most} files and {MAX_FIELDS} other fields are taken")
        yield chunk
    if before is not None:
        said = delimiter[:80].decode("latin-1")
        raise _unusable(f"no line begins with {said}, the boundary that its Content-Type names")


class _Form:
    """What the parser has found so far; a part counts once its end is there."""

    def __init__(self, most: int) -> None:
        self.files: list[File] = []
        self._most = most
        self._fields = self._all_files = 0
        self._names: dict[str, None] = {}  # of all fields, in their order
        self._ended = False

    def begin_part(self) -> None:
        self._disposition = b""
        self._data = BytesIO()

    def begin_header(self) -> None:
        self._name = self._value = b""

    def add_to_header_name(self, data: bytes, start: int, end: int) -> None:
        self._name += data[start:end]

    def add_to_header_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def end_header(self) -> None:
        if self._name.lower() == b"content-disposition":
            self._disposition = self._value

    def end_headers(self) -> None:
        _, options = parse_options_header(self._disposition)
        if b"name" not in options:
            raise _unusable("a part has no name in its header Content-Disposition")
        self._field = _text(options[b"name"], "a field's name")
        self._names[self._field[:40]] = None
        # Browsers send this where no file was chosen, with nothing in it.
        self._unchosen = options.get(b"filename") == b""
        extended = _EXTENDED_NAME.match(self._disposition)
        name = options.get(b"filename")
        if extended and extended[1] is not None:
            name = unquote_to_bytes(extended[1].split(b"'")[-1])
        self._file_name = None if name is None else name[:MAX_NAME].decode(errors="replace")
        self._has_name = name is not None or extended is not None
        if self._has_name or self._field == "file":
            self._all_files += 1
            if self._all_files > self._most:
                raise _unusable(f"it has too many files; {self._most} are taken at once")
        else:
            self._fields += 1
            if self._fields > MAX_FIELDS:
                raise _unusable(f"it has too many fields that are no files; {MAX_FIELDS} are taken")

    def add_data(self, data: bytes, start: int, end: int) -> None:
        self._data.write(memoryview(data)[start:end])
        if self._data.tell() > MAX_VALUE and not self._is_file():
            raise _unusable(f"a field has more than the {MAX_VALUE} bytes that are taken")

    def end_part(self) -> None:
        data = self._data.getvalue()
        if not self._is_file():
            _text(data, f"the value of the field {self._field[:40]!r}")
        elif self._field == "file" and not (self._unchosen and not data):
            self.files.append(File(self._file_name, data))

    def _is_file(self) -> bool:
        """By its name, or else by its first bytes: RFC 7578, 4.2 asks for a name, and .NET's and Apache's
        clients leave it out where they are given bytes alone.
        """
        if self._has_name or self._field != "file":
            return self._has_name
        return sniff(bytes(self._data.getbuffer()[:256])) is not None

    def end(self) -> None:
        self._ended = True

    def require_end(self, boundary: bytes) -> None:
        """Raises InvalidRequest where the form may lack its last files, or a part of one."""
        if not self._ended:
            last = b"--" + boundary[:80] + b"--"
            raise _unusable(
                f"it does not end with {last.decode('latin-1')}; it is cut off, or lacks that line"
            )

    def require_file(self) -> None:
        """Raises InvalidRequest."""
        if self.files:
            return
        if "file" in self._names:
            why = "its field `file` has no file: none was chosen, or it was sent as text"
        elif self._names:
            why = f"it has no file in a field named `file`, but {', '.join(map(repr, self._names))}"
        else:
            why = "it has no fields"
        raise _unusable(f"{why}; send the image as `file`, as `curl -F file=@photo.jpg` does")


def _text(data: bytes, what: str) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError:
        raise _unusable(f"{what} is not UTF-8") from None


def _unusable(why: str) -> InvalidRequest:
    return InvalidRequest(f"the multipart body cannot be used: {why}")
