"""Test multipart forms: a form cannot choose a codec, and text that is not UTF-8 is refused."""

import asyncio
import encodings
from collections.abc import AsyncIterator

import httpx
import pytest

from service.errors import InvalidRequest
from service.http.body.form import MAX_FIELDS, MAX_VALUE, read_form
from tests.support.serving.images import plain
from tests.support.serving.responses import check
from tests.support.serving.server import Server

PICTURE = plain(1)
FILE = b'Content-Disposition: form-data; name="file"; filename="x"'
FIELD = b'Content-Disposition: form-data; name="a"'


def form(*parts: tuple[bytes, bytes]) -> bytes:
    return b"".join(b"--b\r\n" + head + b"\r\n\r\n" + body + b"\r\n" for head, body in parts) + b"--b--\r\n"


def post(server: Server, body: bytes, charset: str = "") -> httpx.Response:
    kind = "multipart/form-data; boundary=b" + (f"; charset={charset}" if charset else "")
    return server.client.post("/predict", content=body, headers={"Content-Type": kind})


@pytest.mark.parametrize(
    "charset",
    ["punycode", "undefined", "idna", "utf-7", "unicode_escape", "zlib", "os.path", "x" * 20_000, '"a;b"'],
    ids=lambda name: name[:20],
)
def test_unknown_charset_is_refused(server: Server, charset: str) -> None:
    body = form((FIELD, b"xn--" + b"a" * 70), (FILE, PICTURE))
    check(post(server, body, charset), 422, "invalid_request", "charset", "use utf-8")
    assert "Traceback" not in server.log


@pytest.mark.parametrize("charset", ["utf-8", "UTF-8", '"utf-8"', "us-ascii", ""])
def test_utf_8_and_ascii_are_accepted(server: Server, charset: str) -> None:
    field = 'Content-Disposition: form-data; name="größe"'.encode()
    assert post(server, form((field, "ä".encode()), (FILE, PICTURE)), charset).status_code == 200


CHOICES = {
    "a part's charset": FILE + b"\r\nContent-Type: text/plain; charset=punycode",
    "a file name's charset": FILE + b"; filename*=punycode''a-b",
    "an RFC 2047 file name": b'Content-Disposition: form-data; name="file"; filename="=?punycode?q?a-b?="',
    "a transfer encoding": FILE + b"\r\nContent-Transfer-Encoding: punycode",
    "a file name in Latin-1": FILE.replace(b'"x"', b'"\xfc.jpg"'),
}


@pytest.mark.parametrize("head", CHOICES.values(), ids=CHOICES)
def test_a_part_cannot_choose_a_charset(server: Server, head: bytes) -> None:
    assert post(server, form((head, PICTURE))).status_code == 200


@pytest.mark.parametrize("name", [b"\xff", b"\xed\xa0\x80", b"\xc3"])
def test_text_that_is_not_utf_8_is_refused(server: Server, name: bytes) -> None:
    field = b'Content-Disposition: form-data; name="' + name + b'"'
    check(post(server, form((field, b"x"), (FILE, PICTURE))), 422, "invalid_request", "name is not UTF-8")
    check(post(server, form((FIELD, name), (FILE, PICTURE))), 422, "invalid_request", "'a' is not UTF-8")


def test_unknown_charsets_are_not_cached() -> None:
    async def body() -> AsyncIterator[bytes]:
        yield form((FILE, PICTURE))

    async def ask() -> None:
        for number in range(100):
            with pytest.raises(InvalidRequest, match="charset"):
                await read_form(f"multipart/form-data; boundary=b; charset=unheard-of-{number}", body(), 1)

    before = dict(encodings._cache)
    asyncio.run(ask())
    assert encodings._cache == before


INVALID = {
    "no boundary": ("multipart/form-data", b"", "no boundary"),
    "an empty boundary": ('multipart/form-data; boundary=""', b"", "no boundary"),
    "a long boundary": ("multipart/form-data; boundary=" + "b" * 300, b"", "256"),
    "no name": (
        "multipart/form-data; boundary=b",
        form((b"Content-Disposition: form-data", b"")),
        "no name",
    ),
    "no disposition": ("multipart/form-data; boundary=b", form((b"A: b", b"")), "no name"),
    "no file": ("multipart/form-data; boundary=b", form((FIELD, b"x")), "no file"),
    "another boundary": ("multipart/form-data; boundary=c", form((FILE, PICTURE)), "boundary"),
    "cut off": ("multipart/form-data; boundary=b", form((FILE, PICTURE))[:-9], "does not end with --b--"),
    "no last line": ("multipart/form-data; boundary=b", form((FILE, PICTURE))[:-5], "does not end with"),
    "half a last line": (
        "multipart/form-data; boundary=b",
        form((FILE, PICTURE))[:-3],
        "does not end with",
    ),
    "the second file cut off": (
        "multipart/form-data; boundary=b",
        form((FILE, PICTURE), (FILE, PICTURE))[:-9],
        "does not end with --b--",
    ),
    "bare line feeds": (
        "multipart/form-data; boundary=b",
        form((FILE, b"x")).replace(b"\r\n", b"\n"),
        "end them with CRLF",
    ),
    "bare line feeds after a preamble": (
        "multipart/form-data; boundary=b",
        b"A form.\n" + form((FILE, b"x")).replace(b"\r\n", b"\n"),
        "end them with CRLF",
    ),
    "an empty body": ("multipart/form-data; boundary=b", b"", "no line begins with --b"),
    "no fields": ("multipart/form-data; boundary=b", b"--b--\r\n", "no fields"),
    "other names": (
        "multipart/form-data; boundary=b",
        form((FIELD, b"x"), (FILE.replace(b'"file"', b'"image"'), PICTURE)),
        "but the fields 'a', 'image'; send the image as `file`",
    ),
    "no file chosen": (
        "multipart/form-data; boundary=b",
        form((FILE.replace(b'"x"', b'""'), b"")),
        "none was chosen",
    ),
    "text": (
        "multipart/form-data; boundary=b",
        form((b'Content-Disposition: form-data; name="file"', b"photo.jpg")),
        "sent as text",
    ),
    "a long text": (
        "multipart/form-data; boundary=b",
        form((b'Content-Disposition: form-data; name="file"', bytes(MAX_VALUE + 1))),
        f"{MAX_VALUE} bytes",
    ),
    "another kind of form": ("multipart/mixed; boundary=b", form((FILE, PICTURE)), "multipart/form-data"),
    "a form in a URL": ("application/x-www-form-urlencoded", b"image=%FF%D8", "multipart/form-data"),
    "fields": ("multipart/form-data; boundary=b", form(*[(FIELD, b"x")] * (MAX_FIELDS + 1)), "fields"),
    "a long field": ("multipart/form-data; boundary=b", form((FIELD, bytes(1_000_001))), "1000000"),
}


@pytest.mark.parametrize(("kind", "body", "detail"), INVALID.values(), ids=INVALID)
def test_an_invalid_form_is_refused(server: Server, kind: str, body: bytes, detail: str) -> None:
    answer = server.client.post("/predict", content=body, headers={"Content-Type": kind})
    check(answer, 422, "invalid_request", detail)


EXTENDED = b"Content-Disposition: form-data; name=\"file\"; filename*=UTF-8''%e2%82%ac.jpg"
UNNAMED = b'Content-Disposition: form-data; name="file"'
UNQUOTED = b"Content-Disposition: form-data; name=file; filename=a.png; filename*=utf-8''a.png"
VALID = {
    "only a file name of RFC 8187": ("b", form((EXTENDED, PICTURE))),
    "a file name in capitals": ("b", form((EXTENDED.replace(b"filename", b"FILENAME"), PICTURE))),
    "a file name in parts": ("b", form((EXTENDED.replace(b"filename*=", b"filename*0*="), PICTURE))),
    "no name, as .NET and Apache's client send bytes": ("b", form((UNNAMED, PICTURE))),
    "no name, and many bytes": ("b", form((UNNAMED, PICTURE + bytes(MAX_VALUE)))),
    ".NET's way of writing": ('"b"', form((UNQUOTED, PICTURE))),
    "no blank before it": ("b", form((EXTENDED.replace(b" filename", b"filename"), PICTURE))),
    "both file names": ("b", form((FILE + b"; filename*=UTF-8''x", PICTURE))),
    "an empty file name": ("b", form((FILE.replace(b'"x"', b'""'), PICTURE))),
    "a preamble": ("b", b"This is a form.\r\n" + form((FILE, PICTURE))),
    "a long preamble": ("b", b"--a form\r\n" * 30_000 + form((FILE, PICTURE))),
    "line ends before it": ("b", b"\r\n\r\n" + form((FILE, PICTURE))),
    "an epilogue": ("b", form((FILE, PICTURE)) + b"That was a form.\r\n--b\r\n"),
    "no line end after it": ("b", form((FILE, PICTURE))[:-2]),
    "a quoted boundary": ('"b"', form((FILE, PICTURE))),
    "a boundary of all characters": (
        '"\'()+_,-./:=? 0"',
        form((FILE, PICTURE)).replace(b"--b", b"--'()+_,-./:=? 0"),
    ),
    "a field where no file was chosen": ("b", form((FILE.replace(b'"x"', b'""'), b""), (FILE, PICTURE))),
}


@pytest.mark.parametrize(("boundary", "body"), VALID.values(), ids=VALID)
def test_unusual_valid_forms_are_accepted(server: Server, boundary: str, body: bytes) -> None:
    headers = {"Content-Type": f"multipart/form-data; boundary={boundary}"}
    answer = server.client.post("/predict", content=body, headers=headers)
    assert (answer.status_code, answer.json().keys() & {"predictions"}) == (200, {"predictions"})


def test_filename_inside_a_quoted_name_is_ignored(server: Server) -> None:
    field = b'Content-Disposition: form-data; name="a; filename*=b"'
    check(post(server, form((field, b"\xff"))), 422, "invalid_request", "is not UTF-8")


def test_a_form_in_small_chunks_is_answered_alike(server: Server) -> None:
    body = b"A preamble\r\n--\r\n--" + form((FIELD, b"x"), (FILE, PICTURE), (FILE, plain(200)))
    whole = post(server, body).json()["results"]
    pieces = (body[at : at + 7] for at in range(0, len(body), 7))
    headers = {"Content-Type": "multipart/form-data; boundary=b"}
    parts = server.client.post("/predict", content=pieces, headers=headers).json()["results"]
    assert [result["predictions"][0]["label"] for result in parts] == [
        result["predictions"][0]["label"] for result in whole
    ]
    assert len(parts) == 2


NAMES = {
    FILE.replace(b'"x"', '"größe ü.jpg"'.encode()): "größe ü.jpg",
    FILE.replace(b'"x"', b'"\xfc.jpg"'): "\ufffd.jpg",
    FILE.replace(b'"x"', b'"' + b"a" * 300 + b'"'): "a" * 255,
    FILE.replace(b'"x"', b'""'): "",
    EXTENDED: "€.jpg",
    FILE + b"; filename*=UTF-8''y%20%22z": 'y "z',
    FILE.replace(b'"x"', rb'"a \"b\".jpg"'): 'a "b".jpg',
}


def test_several_results_name_their_files(server: Server) -> None:
    parts = [(head, PICTURE if number % 2 else b"no picture") for number, head in enumerate(NAMES)]
    results = post(server, form(*parts)).json()["results"]
    assert [result["file"] for result in results] == list(NAMES.values())
    assert ["predictions" in result for result in results] == [data == PICTURE for _head, data in parts]
    single = post(server, form((FILE, PICTURE))).json()
    assert "file" not in single, "a single result needs no name"
