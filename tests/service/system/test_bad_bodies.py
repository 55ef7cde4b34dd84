"""Tests of malicious forms, JSON and tensors, while a witness sends ordinary requests."""

import gzip
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.serving.bystander import LIMITS, serving_with_client
from tests.support.serving.responses import check
from tests.support.serving.server import Server


@pytest.fixture(scope="module")
def server(model_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serving_with_client(tmp_path_factory.mktemp("log") / "stderr", model_file, **LIMITS) as running:
        yield running


def form(*parts: bytes) -> dict[str, Any]:
    body = b"".join(b"--b\r\n" + part + b"\r\n" for part in parts) + b"--b--\r\n"
    return {"content": body, "headers": {"Content-Type": "multipart/form-data; boundary=b"}}


def part(head: bytes, body: bytes = b"x") -> bytes:
    return b"Content-Disposition: form-data; " + head + b"\r\n\r\n" + body


FILE = b'name="file"; filename="x"'


BODIES = {
    "a megabyte of fields": form(*[part(b'name="a"', bytes(1000))] * 1000),
    "a field of a megabyte": form(part(b'name="a"', bytes(1_500_000))),
    "a megabyte of a part's header": form(part(b'name="' + b"a" * 1_000_000 + b'"')),
    "a megabyte of a part's headers": form(b"A: b\r\n" * 170_000 + part(FILE)),
    "thousands of files": form(*[part(FILE)] * 10_000),
    "a boundary without end": {
        "content": b"x",
        "headers": {"Content-Type": "multipart/form-data; boundary=" + "b" * 10_000},
    },
    "only line ends": {"content": b"\r\n" * 700_000, "headers": form()["headers"]},
    "lists in lists": {"content": b"[" * 100 + b"]" * 100},
    "lists in lists without end": {"content": b"[" * 900_000},
    "objects in objects": {"content": b'{"image":' * 100 + b"1" + b"}" * 100},
    "a hundred thousand levels": {"content": b'{"image":' * 100_000 + b"1" + b"}" * 100_000},
    "a number of a megabyte": {"content": b'{"image": ' + b"9" * 1_000_000 + b"}"},
    "numbers without end": {"content": b'{"image": [' + b"1," * 950_000},
    "strings without end": {"content": b'{"image": [' + b'"a",' * 400_000},
    "objects without end": {"content": b'{"image": [' + b"{}," * 400_000},
    "half a character": {"content": b'{"image": "\xff"}'},
    "half a pair": {"content": b'{"image": "\\ud800"}'},
}


@pytest.mark.parametrize("body", BODIES.values(), ids=BODIES)
def test_malicious_body_is_422(server: Server, body: dict[str, Any]) -> None:
    as_json = {"headers": {"Content-Type": "application/json"}}
    check(server.client.post("/predict", **(as_json | body)), 422, "invalid_request")


def tensor(shape: list[int], size: object, rest: bytes, header: str | None = None) -> dict[str, Any]:
    entry = {
        "name": "images",
        "datatype": "UINT8",
        "shape": shape,
        "parameters": {"binary_data_size": size},
    }
    head = json.dumps({"inputs": [entry]}).encode()
    length = str(len(head)) if header is None else header
    return {"content": head + rest, "headers": {"Inference-Header-Content-Length": length}}


ONE = 224 * 224 * 3


LIES = {
    "more than there is": tensor([1, 224, 224, 3], ONE, bytes(100)),
    "exabytes": tensor([1, 224, 224, 3], 1 << 62, bytes(100)),
    "negative": tensor([1, 224, 224, 3], -1, bytes(100)),
    "a fraction": tensor([1, 224, 224, 3], ONE / 7, bytes(100)),
    "text": tensor([1, 224, 224, 3], str(ONE), bytes(ONE)),
    "true": tensor([1, 224, 224, 3], True, bytes(ONE)),
    "less than the shape": tensor([2, 224, 224, 3], ONE, bytes(ONE)),
    "more than the shape": tensor([1, 224, 224, 3], ONE + 1, bytes(ONE + 1)),
    "bytes behind it": tensor([1, 224, 224, 3], ONE, bytes(ONE + 1)),
    "a batch of billions": tensor([1 << 40, 224, 224, 3], ONE, bytes(ONE)),
    "a negative batch": tensor([-1, 224, 224, 3], ONE, bytes(ONE)),
    "no batch": tensor([0, 224, 224, 3], 0, b""),
    "headers past the body": tensor([1, 224, 224, 3], ONE, bytes(ONE), "99999999"),
    "headers of negative length": tensor([1, 224, 224, 3], ONE, bytes(ONE), "-1"),
    "headers cut short": tensor([1, 224, 224, 3], ONE, bytes(ONE), "10"),
}


@pytest.mark.parametrize("body", LIES.values(), ids=LIES)
def test_tensor_with_a_false_size_is_400(server: Server, body: dict[str, Any]) -> None:
    answer = server.client.post("/v2/models/tiny/infer", **body)
    assert answer.status_code == 400, answer.text
    assert answer.json().keys() == {"error"}


def test_decompression_bomb_is_413(server: Server) -> None:
    bomb = gzip.compress(bytes(300_000_000), 9)
    assert len(bomb) < 400_000
    headers = {"Content-Encoding": "gzip"}
    assert server.client.post("/v2/models/tiny/infer", content=bomb, headers=headers).status_code == 413
