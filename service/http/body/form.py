"""Read multipart forms: the files of their fields `file`, in memory.

A form cannot choose a codec, such as a charset: names and values are always UTF-8. A file's name is only
repeated in the answer.
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

MAX_FIELDS: Final = 8  # fields that are not files
MAX_VALUE: Final = 1_000_000  # bytes of the value of such a field
MAX_NAME: Final = 255  # bytes of a file's name
SLICE_BYTES: Final = 65_536  # parsed at a time of a form that is already in memory
# RFC 7578 has no charset parameter for a form; its text is UTF-8, of which ASCII is a subset.
CHARSETS: Final = {b"utf-8", b"utf8", b"us-ascii"}
# `filename*` of RFC 8187, outside quotes. RFC 7578 forbids it, and some clients send nothing else.
_EXTENDED_NAME: Final = re.compile(rb'(?i)(?:[^"]|"(?:[^"\\]|\\.)*")*?;[ \t]*filename\*(?:=([^;]*))?')


class File(NamedTuple):
    """One file of a form."""

    name: str | None  # as the client sent it
    data: bytes


async def read_form(content_type: str, body: bytes | AsyncIterable[bytes], max_files: int) -> list[File]:
    """Read the files of the fields `file`, in order, from a complete `body` or a stream of its chunks.

    Raises InvalidRequest for a malformed form, for one without such a file, and for more than `max_files`
    files in all fields.
    """
    _, options = parse_options_header(content_type)
    charset = options.get(b"charset", b"utf-8")
    if charset.lower() not in CHARSETS:
        name = charset[:40].decode("latin-1")
        raise InvalidRequest(f"the charset of the form is {name!r}; use utf-8, or leave it out")
    boundary = options.get(b"boundary")
    if not boundary:
        raise _unusable("its Content-Type has no boundary")
    if isinstance(body, bytes):
        body = _slices(body)
    form = _Form(max_files)
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
        async for chunk in _from_first_part(body, b"--" + boundary, max_files):
            parser.write(chunk)
    except FormParserError as error:
        raise _unusable(str(error)) from None
    form.require_end(boundary)
    form.require_file()
    return form.files


async def _slices(body: bytes) -> AsyncIterator[bytes]:
    for at in range(0, len(body), SLICE_BYTES):
        yield body[at : at + SLICE_BYTES]
        await asyncio.sleep(0)  # lets other requests run in between


async def _from_first_part(
    body: AsyncIterable[bytes], delimiter: bytes, max_files: int
) -> AsyncIterator[bytes]:
    """Yield the body without its preamble (RFC 2046, 5.1.1), which the parser does not support.

    Raises InvalidRequest for a body without the delimiter, with bare LF as line ends, or with more
    delimiters than `max_files` files and MAX_FIELDS fields need: each takes the parser 1 us, and 20 MB of
    them, which unpack from 20 KB, would take seconds.
    """
    delimiters_left = max_files + MAX_FIELDS + 1
    tail: bytes | None = b"\n"  # end of the preamble that has arrived so far; None after it
    async for chunk in body:
        if tail is not None:
            at = 0
            if tail != b"\n" or not chunk.startswith(delimiter):
                chunk = tail + chunk
                at = chunk.find(b"\n" + delimiter) + 1
                if not at:
                    tail = chunk[-len(delimiter) :]
                    continue
            if chunk.startswith(b"\n", at + len(delimiter)):
                raise _unusable("its lines end with a bare LF; end them with CRLF")
            tail, chunk = None, chunk[at:]
        delimiters_left -= chunk.count(b"\n" + delimiter)
        if delimiters_left < 0:
            raise _unusable(
                f"it has too many parts; the limit is {max_files} files and {MAX_FIELDS} other fields"
            )
        yield chunk
    if tail is not None:
        line = delimiter[:80].decode("latin-1")
        raise _unusable(f"no line begins with {line}, the boundary of its Content-Type")


class _Form:
    """Collect the files from the parser's callbacks; a part counts once it is complete."""

    def __init__(self, max_files: int) -> None:
        self.files: list[File] = []
        self._max_files = max_files
        self._fields = self._all_files = 0
        self._names: dict[str, None] = {}  # of all fields, in order
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
        # Browsers send an empty file name and no data for a field in which no file was chosen.
        self._unchosen = options.get(b"filename") == b""
        extended = _EXTENDED_NAME.match(self._disposition)
        name = options.get(b"filename")
        if extended and extended[1] is not None:
            name = unquote_to_bytes(extended[1].split(b"'")[-1])
        self._file_name = None if name is None else name[:MAX_NAME].decode(errors="replace")
        self._has_name = name is not None or extended is not None
        if self._has_name or self._field == "file":
            self._all_files += 1
            if self._all_files > self._max_files:
                raise _unusable(f"it has too many files; the limit is {self._max_files}")
        else:
            self._fields += 1
            if self._fields > MAX_FIELDS:
                raise _unusable(f"it has too many fields that are not files; the limit is {MAX_FIELDS}")

    def add_data(self, data: bytes, start: int, end: int) -> None:
        self._data.write(memoryview(data)[start:end])
        if self._data.tell() > MAX_VALUE and not self._is_file():
            raise _unusable(f"a field exceeds the limit of {MAX_VALUE} bytes")

    def end_part(self) -> None:
        data = self._data.getvalue()
        if not self._is_file():
            _text(data, f"the value of the field {self._field[:40]!r}")
        elif self._field == "file" and not (self._unchosen and not data):
            self.files.append(File(self._file_name, data))

    def _is_file(self) -> bool:
        """Return whether a part is a file, by its file name or else by its first bytes.

        RFC 7578, 4.2 asks for a name; .NET's and Apache's clients leave it out if they are given only
        bytes.
        """
        if self._has_name or self._field != "file":
            return self._has_name
        return sniff(bytes(self._data.getbuffer()[:256])) is not None

    def end(self) -> None:
        self._ended = True

    def require_end(self, boundary: bytes) -> None:
        """Raise InvalidRequest for a form that is cut off, and may lack files or a part of one."""
        if not self._ended:
            last = b"--" + boundary[:80] + b"--"
            raise _unusable(
                f"it does not end with {last.decode('latin-1')}; it is cut off, or lacks that line"
            )

    def require_file(self) -> None:
        """Raise InvalidRequest for a form without a file in a field `file`."""
        if self.files:
            return
        if "file" in self._names:
            reason = "its field `file` has no file: none was chosen, or it was sent as text"
        elif self._names:
            fields = ", ".join(map(repr, self._names))
            reason = f"it has no file in a field named `file`, but the fields {fields}"
        else:
            reason = "it has no fields"
        raise _unusable(f"{reason}; send the image as `file`, as `curl -F file=@photo.jpg` does")


def _text(data: bytes, name: str) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError:
        raise _unusable(f"{name} is not UTF-8") from None


def _unusable(reason: str) -> InvalidRequest:
    return InvalidRequest(f"the multipart body cannot be used: {reason}")
