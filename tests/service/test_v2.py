"""The Open Inference Protocol, asked by NVIDIA's own client, as it is, through a real server."""

import base64
import gzip
import hashlib
import json
import shutil
import signal
import tomllib
import zlib
from collections.abc import Iterator
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import onnxruntime as ort
import pytest
import tritonclient.http as triton  # type: ignore[import-untyped]
from numpy.typing import NDArray
from tritonclient.utils import InferenceServerException  # type: ignore[import-untyped]

from contract.picture import decode
from contract.preprocess import centre_crop
from contract.recipe import DEFAULT_RECIPE
from service.session import load_model
from service.v2 import VERSION
from tests.service.images import encoded, noise, plain
from tests.service.inside import inside
from tests.service.server import CLASSES, ROOT, Server, serving
from tests.service.test_errors import PNG_HEADER_OF_10_GIGAPIXELS, open_request, wait_until_inside
from tests.service.test_stop import half_sent

OUTPUTS = ("probabilities", "fc7", "conv5")


def client_of(server: Server, **options: Any) -> Any:
    return triton.InferenceServerClient(server.address.removeprefix("http://"), **options)


@pytest.fixture(scope="module")
def client(server: Server) -> Iterator[Any]:
    with client_of(server) as here:
        yield here


@pytest.fixture(scope="module")
def session(model_file: Path) -> ort.InferenceSession:
    return ort.InferenceSession(str(model_file), providers=["CPUExecutionProvider"])


def pixels(*seeds: int) -> NDArray[np.uint8]:
    """The crops of as many images (N, 224, 224, 3)."""
    files = [encoded(noise(seed)) for seed in seeds]
    return np.stack([centre_crop(decode(data, DEFAULT_RECIPE, 10**8), DEFAULT_RECIPE) for data in files])


def images(array: NDArray[np.uint8], binary: bool = True) -> Any:
    tensor = triton.InferInput("images", list(array.shape), "UINT8")
    return tensor.set_data_from_numpy(array, binary_data=binary)


def files(*data: bytes, binary: bool = True) -> Any:
    elements = data if binary else [base64.b64encode(each) for each in data]
    array = np.array(elements, np.object_)
    return triton.InferInput("encoded", [len(data)], "BYTES").set_data_from_numpy(array, binary_data=binary)


def wanted(*names: str, binary: bool = True, top: int = 0) -> list[Any]:
    return [triton.InferRequestedOutput(name, binary_data=binary, class_count=top) for name in names]


def refused(client: Any, *arguments: Any, model: str = "tiny", **options: Any) -> tuple[str, str]:
    """-> status and message of the client's exception."""
    with pytest.raises(InferenceServerException) as raised:
        client.infer(model, *arguments, **options)
    return raised.value.status(), raised.value.message()


def test_the_server_describes_itself(client: Any) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert client.get_server_metadata() == {
        "name": "alexnet",
        "version": project["version"],
        "extensions": ["binary_tensor_data", "classification", "model_repository"],
    }
    assert project["version"] == VERSION


@pytest.mark.parametrize("version", ["", "3"])
def test_the_model_is_described_as_its_file_does(client: Any, version: str) -> None:
    assert client.get_model_metadata("tiny", version) == {
        "name": "tiny",
        "versions": ["3"],
        "platform": "onnxruntime_onnx",
        "inputs": [{"name": "images", "datatype": "UINT8", "shape": [-1, 224, 224, 3]}],
        "outputs": [
            {"name": "probabilities", "datatype": "FP32", "shape": [-1, 7]},
            {"name": "fc7", "datatype": "FP32", "shape": [-1, 204]},
            {"name": "conv5", "datatype": "FP32", "shape": [-1, 12, 13, 13]},
        ],
    }
    assert client.is_model_ready("tiny", version)


def test_health(client: Any, server: Server) -> None:
    assert client.is_server_live()
    assert client.is_server_ready()
    assert server.client.get("/v2/health/live").json() == {"live": True}
    assert server.client.get("/v2/health/ready").json() == {"ready": True}
    assert server.client.get("/v2/models/tiny/ready").json() == {"name": "tiny", "ready": True}
    assert not client.is_model_ready("another")
    assert not client.is_model_ready("tiny", "4")


@pytest.mark.parametrize("sent", [True, False], ids=["binary", "JSON"])
@pytest.mark.parametrize("got", [True, False], ids=["binary", "JSON"])
def test_a_batch_of_pixels_is_the_model_s_own_answer(
    client: Any, session: ort.InferenceSession, sent: bool, got: bool
) -> None:
    batch = pixels(1, 2, 3)
    result = client.infer(
        "tiny", [images(batch, sent)], outputs=wanted(*OUTPUTS, binary=got), request_id="7"
    )
    head = result.get_response()
    assert (head["model_name"], head["model_version"], head["id"]) == ("tiny", "3", "7")
    for name, expected in zip(OUTPUTS, session.run(OUTPUTS, {"images": batch}), strict=True):
        found = result.as_numpy(name)
        assert (found.dtype, found.shape) == (np.float32, expected.shape)
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
    distances = np.abs(result.as_numpy("probabilities")[:, None] - result.as_numpy("probabilities")[None])
    assert distances.max(axis=2)[~np.eye(3, dtype=bool)].min() > 1e-4, "the images are too alike"


def test_without_a_choice_every_output_comes_as_binary_data(client: Any) -> None:
    outputs = client.infer("tiny", [images(pixels(1))], model_version="3").get_response()["outputs"]
    sizes = {output["name"]: output["parameters"]["binary_data_size"] for output in outputs}
    assert sizes == {"probabilities": 4 * 7, "fc7": 4 * 204, "conv5": 4 * 12 * 13 * 13}


@pytest.mark.parametrize("binary", [True, False])
def test_encoded_images_are_answered_as_predict_does(client: Any, server: Server, binary: bool) -> None:
    data = [encoded(noise(4)), encoded(noise(5), "PNG"), encoded(noise(6), "WEBP")]
    result = client.infer("tiny", [files(*data, binary=binary)], outputs=wanted("probabilities", "fc7"))
    for index, file in enumerate(data):
        answer = server.client.post("/predict", params={"top_k": 7}, content=file).json()
        for prediction in answer["predictions"]:
            found = result.as_numpy("probabilities")[index, prediction["index"]]
            assert found == pytest.approx(prediction["probability"], abs=1e-6)
        features = server.client.post("/embed", content=file).json()["embedding"]
        np.testing.assert_allclose(result.as_numpy("fc7")[index], features, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("binary", [True, False])
def test_classification_gives_the_labels_that_predict_gives(
    client: Any, server: Server, binary: bool
) -> None:
    data = [encoded(noise(7)), encoded(noise(8))]
    output = wanted("probabilities", binary=binary, top=4)
    found = client.infer("tiny", [files(*data)], outputs=output).as_numpy("probabilities")
    assert found.shape == (2, 4)
    for file, row in zip(data, found, strict=True):
        answer = server.client.post("/predict", params={"top_k": 4}, content=file).json()
        for element, prediction in zip(row, answer["predictions"], strict=True):
            text = element.decode() if binary else element
            value, index, label = text.split(":")
            assert (int(index), label) == (prediction["index"], prediction["label"])
            assert CLASSES[int(index)] == label
            assert float(value) == pytest.approx(prediction["probability"], abs=1e-6)


def test_nobody_gets_the_answer_of_another(server: Server, session: ort.InferenceSession) -> None:
    """48 requests over 8 connections, so that they share batches, with /predict's among them."""
    batch = pixels(*range(200, 248))
    with client_of(server, concurrency=8) as client:
        pending = [
            client.async_infer(
                "tiny", [images(crop[None])], outputs=wanted("probabilities"), request_id=str(i)
            )
            for i, crop in enumerate(batch)
        ]
        answer = server.client.post("/predict", params={"top_k": 7}, content=encoded(noise(200)))
        results = [request.get_result() for request in pending]
    assert [result.get_response()["id"] for result in results] == [str(i) for i in range(48)]
    alone = np.concatenate([session.run(["probabilities"], {"images": crop[None]})[0] for crop in batch])
    found = np.concatenate([result.as_numpy("probabilities") for result in results])
    distances = np.abs(found[:, None] - alone[None]).max(axis=2)
    assert distances.diagonal().max() < 1e-5
    np.fill_diagonal(distances, 1)
    assert distances.min() > 2e-5, "the images are too alike for this test to mean anything"
    best = answer.json()["predictions"][0]
    assert alone[0, best["index"]] == pytest.approx(best["probability"], abs=1e-5)


def test_the_lanes_wait_for_images_of_either_protocol(
    model_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    load = partial(load_model, device="cpu", threads=1)
    with inside(model_file, load, threads=1) as (client, _loop, engine):
        batcher = next(engine.repository.served).batcher
        expecting, told = batcher.expecting, []

        def overheard(images: int) -> AbstractContextManager[None]:
            told.append(images)
            return expecting(images)

        monkeypatch.setattr(batcher, "expecting", overheard)
        assert client.post("/predict", content=plain(1)).status_code == 200
        data = [base64.b64encode(plain(n)).decode() for n in range(3)]
        tensor = {"name": "encoded", "shape": [3], "datatype": "BYTES", "data": data}
        assert client.post("/v2/models/tiny/infer", json={"inputs": [tensor]}).status_code == 200
    assert told == [1, 3]


@pytest.mark.parametrize("algorithm", ["gzip", "deflate"])
def test_compressed_requests_are_taken(client: Any, algorithm: str) -> None:
    batch = pixels(1)
    result, plainly = (
        client.infer(
            "tiny",
            [images(batch)],
            request_compression_algorithm=one,
            response_compression_algorithm=one,
        )
        for one in (algorithm, None)
    )
    assert np.array_equal(result.as_numpy("probabilities"), plainly.as_numpy("probabilities"))


def test_the_stages_are_timed(server: Server) -> None:
    tensor = {"name": "encoded", "shape": [1], "datatype": "BYTES"}
    body = {"inputs": [tensor | {"data": [base64.b64encode(plain(1)).decode()]}]}
    timing = server.client.post("/v2/models/tiny/infer", json=body).headers["server-timing"]
    stages = dict(stage.split(";dur=") for stage in timing.split(", "))
    assert stages.keys() == {"decode", "queue", "inference", "total"}
    assert 0 < float(stages["decode"]) < float(stages["total"])


# What is wrong is said in the protocol's shape, and the client's exception says it on.


def test_what_the_request_gets_wrong_is_400(client: Any) -> None:
    batch = pixels(1)
    wrong: list[tuple[list[Any], dict[str, Any], str]] = [
        ([images(batch), files(b"x")], {}, "inputs has 2 tensors; send one, images or encoded"),
        (
            [images(batch[:, :100])],
            {},
            "inputs[0].shape is [1, 100, 224, 3]; images takes [N, 224, 224, 3]",
        ),
        ([images(batch[:0])], {}, "inputs[0].shape[0] is 0; one request takes 1 to 256 images"),
        ([images(batch)], {"outputs": wanted("fc8")}, "outputs[0].name is 'fc8'; this model has prob"),
        (
            [images(batch)],
            {"outputs": wanted("probabilities", top=8)},
            "outputs[0].parameters.classification is 8; probabilities has 7 values",
        ),
        ([files(b"GIF89a")], {}, "encoded[0]: "),
        ([files(plain(1), encoded(noise(1))[:900])], {}, "encoded[1]: "),
        ([files(b"hello")], {}, "JPEG"),
        ([files(plain(1), b"")], {}, "encoded[1]: "),
    ]
    for inputs, options, said in wrong:
        status, message = refused(client, inputs, **options)
        assert status == "400", message
        assert said in message
    floats = triton.InferInput("images", [1, 2], "FP32").set_data_from_numpy(np.zeros((1, 2), np.float32))
    assert refused(client, [floats]) == ("400", "inputs[0].datatype is 'FP32'; images takes UINT8")


def test_what_is_not_here_is_404(client: Any) -> None:
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


def test_a_timeout_is_kept(client: Any) -> None:
    assert refused(client, [images(pixels(1))], timeout=1) == ("504", "no answer within 1e-06 s")


def test_too_many_pixels(client: Any) -> None:
    status, message = refused(client, [files(PNG_HEADER_OF_10_GIGAPIXELS)])
    assert status == "413"
    assert message.startswith("encoded[0]: ")
    assert "100000x100000" in message


def check(response: httpx.Response, status: int, *said: str) -> None:
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/json"
    assert response.json().keys() == {"error"}
    for words in said:
        assert words in response.json()["error"]
    for leak in ("Traceback", 'File "', "/service/", "site-packages", " object at 0x"):
        assert leak not in response.text


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
def test_one_shape_for_every_error(server: Server, method: str, path: str, status: int) -> None:
    check(server.client.request(method, path), status)


@pytest.mark.parametrize(
    ("content", "headers", "status", "said"),
    [
        (b"{", {}, 400, "JSON"),
        (b"[" * 100_000, {}, 400, "JSON"),
        (b'{"inputs": []}', {"X-Request-Timeout-Ms": "-1"}, 400, "x-request-timeout-ms"),
        (b"{}", {"Content-Encoding": "br"}, 400, "Content-Encoding is 'br'; use gzip, deflate or none"),
        (b"{}", {"Content-Encoding": "gzip"}, 400, "the body is not gzip"),
        (gzip.compress(b"{}", mtime=0)[:-1], {"Content-Encoding": "gzip"}, 400, "cut off"),
        (gzip.compress(b"{}", mtime=0) * 2, {"Content-Encoding": "gzip"}, 400, "bytes behind its end"),
        (gzip.compress(b"{}", mtime=0), {"Content-Encoding": "gzip"}, 400, "inputs is None"),
        (zlib.compress(bytes(100_000_000)), {"Content-Encoding": "deflate"}, 413, "20000000"),
        (bytes(20_000_001), {}, 413, "20000000"),
    ],
)
def test_bodies_that_are_refused(
    server: Server, content: bytes, headers: dict[str, str], status: int, said: str
) -> None:
    check(server.client.post("/v2/models/tiny/infer", content=content, headers=headers), status, said)


def test_a_full_house_is_429_whichever_image_of_a_batch_finds_it_so(
    model_file: Path, tmp_path: Path
) -> None:
    with (
        serving(tmp_path / "log", model_file, max_queue=3, body_timeout_s=30) as full,
        client_of(full) as client,
    ):
        assert client.infer("tiny", [images(pixels(1, 2, 3))]).as_numpy("probabilities").shape == (3, 7)
        status, message = refused(client, [images(pixels(1, 2, 3, 4))])
        assert status == "400", "it would never be taken"
        assert "one request takes 1 to 3 images" in message
        with open_request(full):
            wait_until_inside(full)
            assert client.infer("tiny", [images(pixels(1, 2))]).as_numpy("probabilities").shape == (2, 7)
            assert refused(client, [images(pixels(1, 2, 3))])[0] == "429"
            head = {"name": "encoded", "shape": [3], "datatype": "BYTES"}
            text = base64.b64encode(plain(1)).decode()
            body = {"inputs": [head | {"data": [text] * 3}]}
            response = full.client.post("/v2/models/tiny/infer", json=body)
            check(response, 429, "3 is the limit")
            assert 1 <= int(response.headers["retry-after"]) <= 60


def test_a_network_that_fails_is_500_for_that_request_alone(fragile_model: Path, tmp_path: Path) -> None:
    bright, dark = (np.full((1, 224, 224, 3), level, np.uint8) for level in (255, 1))
    with serving(tmp_path / "log", fragile_model) as server, client_of(server) as client:
        status, message = refused(client, [images(bright)], model="fragile")
        assert (status, message) == ("500", "the server failed on this request; its log says why")
        assert client.infer("fragile", [images(dark)]).as_numpy("probabilities").shape == (1, 2)


def test_a_server_that_stops_is_not_ready_but_live(model_file: Path, tmp_path: Path) -> None:
    with (
        serving(tmp_path / "log", model_file, drain_delay_s=20) as server,
        half_sent(server, plain(1)),
        client_of(server) as client,
    ):
        server.process.send_signal(signal.SIGTERM)
        while client.is_server_ready():
            pass
        assert client.is_server_live()
        check(server.client.get("/v2/health/ready"), 503, "the server is stopping")
        server.process.kill()


# The repository


@pytest.fixture
def repository(model_file: Path, tmp_path: Path) -> Path:
    """`one` as a file, `two` in versions 1 and 2, and a file that is no model."""
    folder = tmp_path / "models"
    for name in ("one.onnx", "two/1/model.onnx", "two/2/model.onnx"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(model_file, folder / name)
    (folder / "broken.onnx").write_bytes(b"no model")
    return folder


def key_file(path: Path, *keys: str) -> Path:
    path.write_text("".join(f"{hashlib.sha256(key.encode()).hexdigest()}\n" for key in keys))
    return path


def states(client: Any) -> list[tuple[str, str, str]]:
    found = client.get_model_repository_index(headers={"Authorization": "Bearer user"})
    return [(entry["name"], entry["version"], entry["state"]) for entry in found]


def test_models_are_loaded_and_unloaded_by_admins(
    repository: Path, model_file: Path, tmp_path: Path
) -> None:
    settings = {
        "MODEL": "",
        "MODELS": repository,
        "api_keys_file": key_file(tmp_path / "keys", "user"),
        "admin_keys_file": key_file(tmp_path / "admins", "admin"),
    }
    user, admin = ({"Authorization": f"Bearer {key}"} for key in ("user", "admin"))
    batch = images(pixels(1))
    with serving(tmp_path / "log", model_file, **settings) as server, client_of(server) as client:
        assert client.is_server_ready(), "health needs no key"
        check(server.client.get("/v2"), 401, "Authorization: Bearer KEY")
        assert refused(client, [batch], model="one")[0] == "401"

        everything = [("one", "3", "READY"), ("two", "2", "READY"), ("two", "1", "READY")]
        assert states(client) == [("broken", "", "UNAVAILABLE"), *everything]
        index = client.get_model_repository_index(headers=user)
        assert "broken.onnx" in index[0]["reason"]
        assert index[1]["reason"] == ""
        ready = server.client.post("/v2/repository/index", json={"ready": True}, headers=user).json()
        assert [entry["name"] for entry in ready] == ["one", "two", "two"]
        assert client.get_model_metadata("two", headers=user)["versions"] == ["2", "1"]
        for version, expected in (("", "2"), ("2", "2"), ("1", "1")):
            result = client.infer("two", [batch], model_version=version, headers=dict(user))
            assert result.get_response()["model_version"] == expected
        status, message = refused(client, [batch], model="broken", headers=dict(user))
        assert status == "503"
        assert "broken.onnx" in message

        with pytest.raises(InferenceServerException, match="admin's key") as raised:
            client.unload_model("one", headers=user)
        assert raised.value.status() == "403"
        client.unload_model("two", headers=admin)
        assert not client.is_model_ready("two", headers=user)
        assert refused(client, [batch], model="two", headers=dict(user))[0] == "503"
        assert client.is_model_ready("one", headers=user)
        client.load_model("two", headers=admin)
        assert client.is_model_ready("two", "1", headers=user)
        assert client.infer("two", [batch], headers=dict(user)).get_response()["model_version"] == "2"

        shutil.copy(model_file, repository / "late.onnx")
        assert not client.is_model_ready("late", headers=user)
        client.load_model("late", headers=admin)
        assert states(client)[1] == ("late", "3", "READY")

        with pytest.raises(InferenceServerException, match=r"broken\.onnx") as raised:
            client.load_model("broken", headers=admin)
        assert raised.value.status() == "400"
        with pytest.raises(InferenceServerException, match="missing") as raised:
            client.load_model("missing", headers=admin)
        assert raised.value.status() == "404"
        with pytest.raises(InferenceServerException, match=r"parameters\.config is not taken"):
            client.load_model("one", headers=admin, config="{}")
        for wrong in (b"[]", b'{"ready": 1}'):
            check(server.client.post("/v2/repository/index", content=wrong, headers=user), 400)


def test_the_description_has_the_protocol(server: Server) -> None:
    document = server.client.get("/openapi.json").json()
    infer = document["paths"]["/v2/models/{name}/versions/{version}/infer"]["post"]
    for content in (infer["requestBody"]["content"], infer["responses"]["200"]["content"]):
        assert content.keys() == {"application/json", "application/octet-stream"}
    assert {"200", "400", "401", "404", "408", "413", "429", "503", "504"} <= infer["responses"].keys()
    assert "422" not in infer["responses"]
    refusal = infer["responses"]["400"]["content"]["application/json"]["schema"]
    assert json.dumps(refusal).endswith('/ProtocolError"}')
