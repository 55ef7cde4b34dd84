"""Test images as base64 in JSON, in every usual form, and JSON under another content type."""

import base64
import json
from typing import Any

import httpx
import pytest

from service.http.body.json_fields import from_base64
from tests.support.serving.images import encoded, noise, plain
from tests.support.serving.responses import check
from tests.support.serving.server import Server

PICTURE = encoded(noise(3)) + b"\0"  # bytes after a JPEG's end are ignored
PICTURE += bytes(-len(PICTURE) % 3 + 1)  # so that base64 needs padding
PLAIN = base64.b64encode(PICTURE).decode()
VALID = {
    "plain": PLAIN,
    "lines": base64.encodebytes(PICTURE).decode(),
    "lines of CRLF": base64.encodebytes(PICTURE).decode().replace("\n", "\r\n"),
    "blanks around it": f"  {PLAIN}\t",
    "for URLs": base64.urlsafe_b64encode(PICTURE).decode(),
    "unpadded": PLAIN.rstrip("="),
    "for URLs, unpadded, in lines": base64.urlsafe_b64encode(PICTURE).decode().rstrip("=") + "\n",
    "a data URL": f"data:image/jpeg;base64,{PLAIN}",
    "a data URL with parameters": f"data:image/jpeg;name=a.jpg;charset=utf-8;base64,{PLAIN}",
    "a data URL without a type": f"data:;base64,{PLAIN}",
    "a data URL in capitals": f"DATA:image/jpeg; BASE64,{PLAIN}",
    "a data URL in lines": f"\n data:image/jpeg;base64,\n{base64.encodebytes(PICTURE).decode()}",
    "a data URL with per cent codes": "data:image/jpeg;base64,"
    + PLAIN.replace("+", "%2B").replace("=", "%3D"),
}
INVALID = {
    "a sign": "a*bc",
    "too much padding": "QQ===",
    "padding inside": "QQ==QQ==",
    "one letter": "QUJDR",
    "not ASCII": "é" * 4,
    "a lone surrogate": "\ud800abc",
    "a URL": "https://example.org/a.jpg",
    "a data URL without base64": "data:image/svg+xml,%3Csvg/%3E",
    "a data URL without data": "data:image/jpeg;base64",
    "a path": "photo.jpg",
}


def post(server: Server, body: bytes, kind: str | None = "application/json") -> httpx.Response:
    return server.client.post("/predict", content=body, headers={"Content-Type": kind} if kind else {})


def infer(data: Any) -> bytes:
    entry = {"name": "encoded", "shape": [1], "datatype": "BYTES", "data": [data]}
    return json.dumps({"inputs": [entry], "outputs": [{"name": "probabilities"}]}).encode()


@pytest.mark.parametrize("text", VALID.values(), ids=VALID)
def test_every_usual_form_of_base64_is_accepted(server: Server, text: str) -> None:
    assert from_base64(text) == PICTURE
    answer = post(server, json.dumps({"images": [text, PLAIN]}).encode())
    first, second = (result["predictions"] for result in answer.json()["results"])
    assert first == second
    assert server.client.post("/v2/models/tiny/infer", content=infer(text)).status_code == 200


@pytest.mark.parametrize("text", INVALID.values(), ids=INVALID)
def test_invalid_base64_is_refused(server: Server, text: str) -> None:
    check(post(server, json.dumps({"image": text}).encode()), 422, "invalid_request", "`image`", "base64")
    answer = server.client.post("/v2/models/tiny/infer", content=infer(text))
    assert (answer.status_code, "inputs[0].data[0]" in answer.text) == (400, True)


def test_an_empty_string_is_refused(server: Server) -> None:
    check(post(server, b'{"image": ""}'), 422, "invalid_request", "empty")


def test_json_may_begin_with_a_byte_order_mark(server: Server) -> None:
    mark = b"\xef\xbb\xbf"
    assert post(server, mark + json.dumps({"image": PLAIN}).encode()).status_code == 200
    assert server.client.post("/v2/models/tiny/infer", content=mark + infer(PLAIN)).status_code == 200
    assert server.client.post("/v2/repository/index", content=mark + b'{"ready": true}').status_code == 200
    body = mark + json.dumps({"inputs": []}).encode()
    headers = {"Inference-Header-Content-Length": str(len(body))}
    answer = server.client.post("/v2/models/tiny/infer", content=body, headers=headers)
    assert "0 tensors" in answer.text


@pytest.mark.parametrize(
    "kind",
    ["application/x-www-form-urlencoded", "text/plain", "text/json", "image/jpeg", "multipart/mixed", None],
)
@pytest.mark.parametrize("before", [b"", b"\xef\xbb\xbf", b" \r\n"])
def test_json_under_another_content_type_is_refused_with_a_remedy(
    server: Server, kind: str | None, before: bytes
) -> None:
    answer = post(server, before + json.dumps({"image": PLAIN}).encode(), kind)
    check(answer, 422, "invalid_request", "Content-Type: application/json", kind or "no Content-Type")


@pytest.mark.parametrize("kind", ["application/x-www-form-urlencoded", "text/plain", "x", None])
def test_an_image_is_accepted_under_any_content_type(server: Server, kind: str | None) -> None:
    assert post(server, plain(1), kind).status_code == 200
