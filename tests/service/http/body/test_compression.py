"""Test compressed bodies: they are answered like uncompressed ones, and limits hold."""

import base64
import gzip
import json
import threading
import time
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from service.errors import InvalidRequest
from service.http.body.compression import MAX_MEMBERS, inflate
from tests.support.serving.images import plain
from tests.support.serving.responses import check
from tests.support.serving.server import Server, metrics, serving

PICTURE = plain(1)
LIMIT = 100_000
JSON = json.dumps({"image": base64.b64encode(PICTURE).decode()}).encode()
FORM = (
    b'--b\r\nContent-Disposition: form-data; name="file"; filename="x"\r\n\r\n' + PICTURE + b"\r\n--b--\r\n"
)
KINDS = {
    "bare": (PICTURE, "image/png"),
    "JSON": (JSON, "application/json"),
    "a form": (FORM, "multipart/form-data; boundary=b"),
}


def raw_deflate(data: bytes) -> bytes:
    compressor = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    return compressor.compress(data) + compressor.flush()


def members(data: bytes) -> bytes:
    """Compress each 100 bytes to one gzip member."""
    return b"".join(gzip.compress(data[at : at + 100]) for at in range(0, len(data), 100))


PACKED = {
    "gzip": ("gzip", gzip.compress),
    "x-gzip": ("x-gzip", gzip.compress),
    "in capitals": ("GZIP", gzip.compress),
    "of several members": ("gzip", members),
    "an empty member after it": ("gzip", lambda data: gzip.compress(data) + gzip.compress(b"")),
    "zeros after it": ("gzip", lambda data: gzip.compress(data) + bytes(1000)),
    "deflate": ("deflate", zlib.compress),
    "deflate without a header": ("deflate", raw_deflate),
    "gzip and identity": ("identity, gzip", gzip.compress),
    "identity": ("identity", bytes),
    "nothing": ("", bytes),
}


@pytest.fixture(scope="module")
def small(model_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Serve with a body limit of 100,000 bytes."""
    limits = {"max_body_bytes": LIMIT, "max_queue_bytes": 2 * LIMIT}
    with serving(tmp_path_factory.mktemp("log") / "stderr", model_file, **limits) as running:
        yield running


def post(server: Server, path: str, body: bytes, kind: str, coding: str) -> httpx.Response:
    headers = {"Content-Type": kind, "Content-Encoding": coding}
    return server.client.post(path, content=body, headers=headers)


@pytest.mark.parametrize(("coding", "pack"), PACKED.values(), ids=PACKED)
@pytest.mark.parametrize(("body", "kind"), KINDS.values(), ids=KINDS)
def test_a_compressed_body_is_answered_like_the_original(
    small: Server, body: bytes, kind: str, coding: str, pack: Any
) -> None:
    expected = post(small, "/predict", body, kind, "").json()["predictions"]
    response = post(small, "/predict", pack(body), kind, coding)
    assert response.status_code == 200, response.text
    assert response.json()["predictions"] == expected


@pytest.mark.parametrize(("coding", "pack"), PACKED.values(), ids=PACKED)
def test_other_routes_accept_compressed_bodies(small: Server, coding: str, pack: Any) -> None:
    for path in ("/embed", "/explain?format=json"):
        assert post(small, path, pack(JSON), "application/json", coding).status_code == 200
    entry = {"name": "encoded", "shape": [1], "datatype": "BYTES", "data": [json.loads(JSON)["image"]]}
    infer = json.dumps({"inputs": [entry], "outputs": [{"name": "probabilities"}]}).encode()
    assert post(small, "/v2/models/tiny/infer", pack(infer), "application/json", coding).status_code == 200
    assert post(small, "/v2/repository/index", pack(b'{"ready": true}'), "", coding).status_code == 200


BAD = {
    "cut off": ("gzip", gzip.compress(PICTURE)[:-9], 422, "cut off"),
    "only a header": ("gzip", gzip.compress(b"")[:10], 422, "cut off"),
    "cut off in its second member": (
        "gzip",
        gzip.compress(b"a") + gzip.compress(b"b")[:-1],
        422,
        "cut off",
    ),
    "not packed": ("gzip", PICTURE, 422, "not gzip, as Content-Encoding says"),
    "packed otherwise": ("gzip", zlib.compress(PICTURE), 422, "not gzip"),
    "damaged": ("gzip", gzip.compress(PICTURE)[:-8] + bytes(8), 422, "not gzip"),
    "bytes after it": ("gzip", gzip.compress(PICTURE) + b"abc", 422, "not gzip"),
    "zeros and bytes after it": ("gzip", gzip.compress(PICTURE) + bytes(9) + b"a", 422, "after its end"),
    "deflate twice": ("deflate", zlib.compress(PICTURE) * 2, 422, "after its end"),
    "too much": ("gzip", gzip.compress(bytes(LIMIT + 1)), 413, f"{LIMIT} bytes"),
    "too much in members": ("gzip", gzip.compress(bytes(LIMIT // 2)) * 3, 413, f"{LIMIT} bytes"),
    "too many members": ("gzip", gzip.compress(b"") * (MAX_MEMBERS + 1), 422, f"{MAX_MEMBERS} members"),
    "Brotli": ("br", b"x", 415, "'br'; use gzip or deflate"),
    "Zstandard": ("zstd", b"x", 415, "'zstd'; use gzip or deflate"),
    "two layers": ("gzip, gzip", gzip.compress(gzip.compress(PICTURE)), 415, "'gzip, gzip'"),
    "two kinds": ("deflate, gzip", gzip.compress(zlib.compress(PICTURE)), 415, "use gzip or deflate, once"),
}


@pytest.mark.parametrize(("coding", "body", "status", "detail"), BAD.values(), ids=BAD)
@pytest.mark.parametrize("kind", [kind for _body, kind in KINDS.values()])
def test_bodies_that_cannot_be_decompressed_are_refused(
    small: Server, kind: str, coding: str, body: bytes, status: int, detail: str
) -> None:
    code = {413: "too_large", 415: "unsupported_encoding", 422: "invalid_request"}[status]
    answer = post(small, "/predict", body, kind, coding)
    check(answer, status, code, detail)
    assert (answer.headers.get("accept-encoding") == "gzip, deflate") is (status == 415)


@pytest.mark.parametrize("coding", ["gzip", "deflate"])
def test_an_empty_body_stays_empty_with_any_coding(small: Server, coding: str) -> None:
    assert post(small, "/v2/repository/index", b"", "", coding).status_code == 200
    for _body, kind in KINDS.values():
        bare = post(small, "/predict", b"", kind, "")
        check(post(small, "/predict", b"", kind, coding), 422, "invalid_request", bare.json()["detail"])


def test_two_content_encoding_headers_are_two_layers(small: Server) -> None:
    headers = [("Content-Encoding", "gzip"), ("Content-Encoding", "br")]
    check(
        small.client.post("/predict", content=b"x", headers=headers),
        415,
        "unsupported_encoding",
        "gzip, br",
    )


def test_decompression_beyond_the_capacity_waits_or_gets_429(small: Server) -> None:
    """Each body counts as MAX_BODY_BYTES while it is decompressed, and no longer afterwards."""
    body, statuses = gzip.compress(bytes(LIMIT)), list[int]()

    def send() -> None:
        answer = httpx.post(small.address + "/predict", content=body, headers={"Content-Encoding": "gzip"})
        statuses.append(answer.status_code)

    threads = [threading.Thread(target=send) for _ in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert set(statuses) <= {415, 429}
    assert 415 in statuses, "zeros are no image"
    assert metrics(small)["alexnet_in_flight_images"] == 0
    assert post(small, "/predict", gzip.compress(PICTURE), "", "gzip").status_code == 200


@pytest.mark.parametrize("line", [b"\r\n--bx", b"\r\n--b-", b"\r\n--b\r"])
def test_a_form_with_too_many_boundaries_is_refused_before_parsing(small: Server, line: bytes) -> None:
    """Compressed, many boundaries take little space; each takes the parser time."""
    body = FORM[: FORM.index(PICTURE)] + line * 300 + b"\r\n--b--\r\n"
    for coding, sent in (("gzip", gzip.compress(body)), ("identity", body)):
        answer = post(small, "/predict", sent, KINDS["a form"][1], coding)
        check(answer, 422, "invalid_request", "too many parts")


def test_many_members_and_long_padding_take_little_time() -> None:
    """The bytes after a member are not all copied or counted again for each member."""
    began = time.process_time()
    with pytest.raises(InvalidRequest, match="members"):
        inflate(gzip.compress(b"") * 1_000_000, "gzip", 20_000_000)
    assert inflate(gzip.compress(b"a") + bytes(20_000_000), "gzip", 1) == b"a"
    assert time.process_time() - began < 2
