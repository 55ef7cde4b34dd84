"""Multipart forms: the files in their fields `file`, in memory. Nothing that a client names, such as a
charset, chooses how it is read: names and values are UTF-8, file names are not read at all.
"""

from collections.abc import AsyncIterable
from io import BytesIO
from typing import Final

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from service.errors import InvalidRequest

MOST_FIELDS: Final = 8  # that are no files
MOST_VALUE: Final = 1_000_000  # bytes of such a field
# RFC 7578 knows no charset of a form; that of the text in it is UTF-8, of which ASCII is a part.
CHARSETS: Final = {b"utf-8", b"utf8", b"us-ascii"}


async def read_form(content_type: str, body: AsyncIterable[bytes], most: int) -> list[bytes]:
    """The files in the fields `file`, in their order. Raises InvalidRequest, also where there is none, or
    more than `most` files in all.
    """
    _, options = parse_options_header(content_type)
    charset = options.get(b"charset", b"utf-8")
    if charset.lower() not in CHARSETS:
        said = charset[:40].decode("latin-1")
        raise InvalidRequest(f"the charset of the form is {said!r}; use utf-8, or leave it out")
    boundary = options.get(b"boundary")
    if not boundary:
        raise _unusable("its Content-Type has no boundary")
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
            },
        )
        async for chunk in body:
            parser.write(chunk)
    except FormParserError as error:
        raise _unusable(str(error)) from None
    if not form.files:
        raise InvalidRequest("the multipart body has no file in a field named `file`")
    return form.files


class _Form:
    """What the parser has found so far; a part counts once its end is there."""

    def __init__(self, most: int) -> None:
        self.files: list[bytes] = []
        self._most = most
        self._fields = self._all_files = 0

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
        self._is_file = b"filename" in options
        if self._is_file:
            self._all_files += 1
            if self._all_files > self._most:
                raise _unusable(f"it has too many files; {self._most} are taken at once")
        else:
            self._fields += 1
            if self._fields > MOST_FIELDS:
                raise _unusable(f"it has too many fields that are no files; {MOST_FIELDS} are taken")

    def add_data(self, data: bytes, start: int, end: int) -> None:
        if not self._is_file and self._data.tell() + end - start > MOST_VALUE:
            raise _unusable(f"a field has more than the {MOST_VALUE} bytes that are taken")
        self._data.write(memoryview(data)[start:end])

    def end_part(self) -> None:
        data = self._data.getvalue()
        if not self._is_file:
            _text(data, f"the value of the field {self._field[:40]!r}")
        elif self._field == "file":
            self.files.append(data)


def _text(data: bytes, what: str) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError:
        raise _unusable(f"{what} is not UTF-8") from None


def _unusable(why: str) -> InvalidRequest:
    return InvalidRequest(f"the multipart body cannot be used: {why}")
