"""Errors of the Open Inference Protocol, as its client reports them."""

import base64
import gzip
import signal
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tritonclient.http as triton  # type: ignore[import-untyped]
from tritonclient.utils import InferenceServerException  # type: ignore[import-untyped]

from tests.support.eventually import eventually
from tests.support.serving.images import PNG_HEADER_OF_10_GIGAPIXELS, encoded, noise, plain
from tests.support.serving.raw_http import half_sent, held_request, wait_until_in_flight
from tests.support.serving.server import Server, serving
from tests.support.serving.triton import check, client_of, files, images, pixels, refused, requested_outputs


def test_invalid_request_is_400(client: Any) -> None:
    batch = pixels(1)
    invalid_requests: list[tuple[list[Any], dict[str, Any], str]] = [
        ([images(batch), files(b"x")], {}, "inputs has 2 tensors; send one, images or encoded"),
        (
            [images(batch[:, :100])],
            {},
            "inputs[0].shape is [1, 100, 224, 3]; images takes [N, 224, 224, 3]",
        ),
        ([images(batch[:0])], {}, "inputs[0].shape[0] is 0; one request takes 1 to 256 images"),
        (
            [images(batch)],
            {"outputs": requested_outputs("fc8")},
            "outputs[0].name is 'fc8'; this model has prob",
        ),
        (
            [images(batch)],
            {"outputs": requested_outputs("probabilities", top=8)},
            "outputs[0].parameters.classification is 8; probabilities has 7 values",
        ),
        ([files(b"GIF89a")], {}, "encoded[0]: "),
        ([files(plain(1), encoded(noise(1))[:900])], {}, "encoded[1]: "),
        ([files(b"hello")], {}, "JPEG"),
        ([files(plain(1), b"")], {}, "encoded[1]: "),
    ]
    for inputs, options, expected_message in invalid_requests:
        status, message = refused(client, inputs, **options)
        assert status == "400", message
        assert expected_message in message
    floats = triton.InferInput("images", [1, 2], "FP32").set_data_from_numpy(np.zeros((1, 2), np.float32))
    assert refused(client, [floats]) == ("400", "inputs[0].datatype is 'FP32'; images takes UINT8")


def test_unknown_model_version_or_path_is_404(client: Any) -> None:
    batch = images(pixels(1))
    status, message = refused(client, [batch], model="another")
    assert status == "404"
    assert "another" in message
    assert "tiny version 3" in message
    for version in ("4", "0", "-1", "x", "9" * 5000):
        assert refused(client, [batch], model_version=version)[0] == "404"
    with pytest.raises(InferenceServerException, match="/v2/models/tiny/config: Not Found") as raised:
        client.get_model_config("tiny")
    assert raised.value.status() == "404"


def test_missed_timeout_is_504(client: Any) -> None:
    assert refused(client, [images(pixels(1))], timeout=1) == ("504", "no answer within 1e-06 s")


def test_too_many_pixels_is_413(client: Any) -> None:
    status, message = refused(client, [files(PNG_HEADER_OF_10_GIGAPIXELS)])
    assert status == "413"
    assert message.startswith("encoded[0]: ")
    assert "100000x100000" in message


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/v2/nothing", 404),
        ("GET", "/v2/models/tiny/infer", 405),
        ("DELETE", "/v2/health/live", 405),
        ("GET", "/v2/models/tiny/versions/4", 404),
        ("POST", "/v2/models/tiny/infer", 400),
        ("POST", "/v2/models/another/infer", 404),
        ("POST", "/v2/repository/models/tiny/load", 403),
        ("POST", "/v2/repository/models/tiny/unload", 403),
    ],
)
def test_every_error_has_the_same_format(server: Server, method: str, path: str, status: int) -> None:
    check(server.client.request(method, path), status)


@pytest.mark.parametrize(
    ("content", "headers", "status", "message"),
    [
        (b"{", {}, 400, "JSON"),
        (b"[" * 100_000, {}, 400, "JSON"),
        (b'{"inputs": []}', {"X-Request-Timeout-Ms": "-1"}, 400, "x-request-timeout-ms"),
        (b"{}", {"Content-Encoding": "br"}, 400, "Content-Encoding is 'br'; use gzip or deflate"),
        (b"{}", {"Content-Encoding": "gzip"}, 400, "the body is not gzip"),
        (gzip.compress(b"{}", mtime=0)[:-1], {"Content-Encoding": "gzip"}, 400, "cut off"),
        (zlib.compress(b"{}") * 2, {"Content-Encoding": "deflate"}, 400, "bytes after its end"),
        (gzip.compress(b"{}", mtime=0), {"Content-Encoding": "gzip"}, 400, "inputs is None"),
        (zlib.compress(bytes(100_000_000)), {"Content-Encoding": "deflate"}, 413, "20000000"),
        (bytes(20_000_001), {}, 413, "20000000"),
    ],
)
def test_invalid_bodies_are_refused(
    server: Server, content: bytes, headers: dict[str, str], status: int, message: str
) -> None:
    check(server.client.post("/v2/models/tiny/infer", content=content, headers=headers), status, message)


def test_no_free_permits_is_429_for_any_image_of_a_batch(model_file: Path, tmp_path: Path) -> None:
    with (
        serving(tmp_path / "log", model_file, max_queue=3, max_batch=3, max_wait_ms=60_000) as full,
        client_of(full) as client,
    ):
        assert client.infer("tiny", [images(pixels(1, 2, 3))]).as_numpy("probabilities").shape == (3, 7)
        status, message = refused(client, [images(pixels(1, 2, 3, 4))])
        assert status == "400", "it would never fit"
        assert "one request takes 1 to 3 images" in message
        with held_request(full):
            wait_until_in_flight(full)
            assert refused(client, [images(pixels(1, 2, 3))])[0] == "429"
    with (
        serving(tmp_path / "log", model_file, max_queue=3, max_batch=4, max_wait_ms=60_000) as full,
        held_request(full),
        held_request(full),
        held_request(full),
    ):
        wait_until_in_flight(full, 3)
        head = {"name": "encoded", "shape": [3], "datatype": "BYTES"}
        text = base64.b64encode(plain(1)).decode()
        body = {"inputs": [head | {"data": [text] * 3}]}
        response = full.client.post("/v2/models/tiny/infer", json=body)
        check(response, 429, "3 is the limit")
        assert 1 <= int(response.headers["retry-after"]) <= 60


def test_failing_run_is_500_for_that_request_only(fragile_model: Path, tmp_path: Path) -> None:
    bright, dark = (np.full((1, 224, 224, 3), level, np.uint8) for level in (255, 1))
    with serving(tmp_path / "log", fragile_model) as server, client_of(server) as client:
        status, message = refused(client, [images(bright)], model="fragile")
        assert (status, message) == ("500", "the server failed on this request; its log says why")
        assert client.infer("fragile", [images(dark)]).as_numpy("probabilities").shape == (1, 2)


def test_stopping_server_is_not_ready_but_live(model_file: Path, tmp_path: Path) -> None:
    with (
        serving(tmp_path / "log", model_file, drain_delay_s=20) as server,
        half_sent(server, plain(1)),
        client_of(server) as client,
    ):
        server.process.send_signal(signal.SIGTERM)
        eventually(lambda: not client.is_server_ready())
        assert client.is_server_live()
        check(server.client.get("/v2/health/ready"), 503, "the server is stopping")
        server.process.kill()
