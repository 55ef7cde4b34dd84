"""The Open Inference Protocol on a real server, with NVIDIA's unmodified client."""

import base64
import json
import tomllib
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest

from service.http.v2.routes import VERSION
from tests.support.checkout import ROOT
from tests.support.serving.images import encoded, noise, plain
from tests.support.serving.server import CLASSES, Server
from tests.support.serving.triton import client_of, files, images, pixels, requested_outputs

OUTPUTS = ("probabilities", "fc7", "conv5")


@pytest.fixture(scope="module")
def session(model_file: Path) -> ort.InferenceSession:
    return ort.InferenceSession(str(model_file), providers=["CPUExecutionProvider"])


def test_the_server_describes_itself(client: Any) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert client.get_server_metadata() == {
        "name": "alexnet",
        "version": project["version"],
        "extensions": ["binary_tensor_data", "classification", "model_repository"],
    }
    assert project["version"] == VERSION


@pytest.mark.parametrize("version", ["", "3"])
def test_model_metadata_matches_the_file(client: Any, version: str) -> None:
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


@pytest.mark.parametrize("binary_input", [True, False], ids=["binary", "JSON"])
@pytest.mark.parametrize("binary_output", [True, False], ids=["binary", "JSON"])
def test_batch_of_pixels_matches_the_model(
    client: Any, session: ort.InferenceSession, binary_input: bool, binary_output: bool
) -> None:
    batch = pixels(1, 2, 3)
    result = client.infer(
        "tiny",
        [images(batch, binary_input)],
        outputs=requested_outputs(*OUTPUTS, binary=binary_output),
        request_id="7",
    )
    head = result.get_response()
    assert (head["model_name"], head["model_version"], head["id"]) == ("tiny", "3", "7")
    for name, expected in zip(OUTPUTS, session.run(OUTPUTS, {"images": batch}), strict=True):
        output = result.as_numpy(name)
        assert (output.dtype, output.shape) == (np.float32, expected.shape)
        np.testing.assert_allclose(output, expected, rtol=1e-4, atol=1e-5)
    distances = np.abs(result.as_numpy("probabilities")[:, None] - result.as_numpy("probabilities")[None])
    assert distances.max(axis=2)[~np.eye(3, dtype=bool)].min() > 1e-4, "the images are too alike"


def test_default_is_every_output_as_binary_data(client: Any) -> None:
    outputs = client.infer("tiny", [images(pixels(1))], model_version="3").get_response()["outputs"]
    sizes = {output["name"]: output["parameters"]["binary_data_size"] for output in outputs}
    assert sizes == {"probabilities": 4 * 7, "fc7": 4 * 204, "conv5": 4 * 12 * 13 * 13}


@pytest.mark.parametrize("binary", [True, False])
def test_encoded_images_match_predict(client: Any, server: Server, binary: bool) -> None:
    data = [encoded(noise(4)), encoded(noise(5), "PNG"), encoded(noise(6), "WEBP")]
    result = client.infer(
        "tiny", [files(*data, binary=binary)], outputs=requested_outputs("probabilities", "fc7")
    )
    for index, file in enumerate(data):
        answer = server.client.post("/predict", params={"top_k": 7}, content=file).json()
        for prediction in answer["predictions"]:
            probability = result.as_numpy("probabilities")[index, prediction["index"]]
            assert probability == pytest.approx(prediction["probability"], abs=1e-6)
        features = server.client.post("/embed", content=file).json()["embedding"]
        np.testing.assert_allclose(result.as_numpy("fc7")[index], features, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("binary", [True, False])
def test_classification_labels_match_predict(client: Any, server: Server, binary: bool) -> None:
    data = [encoded(noise(7)), encoded(noise(8))]
    output = requested_outputs("probabilities", binary=binary, top=4)
    rows = client.infer("tiny", [files(*data)], outputs=output).as_numpy("probabilities")
    assert rows.shape == (2, 4)
    for file, row in zip(data, rows, strict=True):
        answer = server.client.post("/predict", params={"top_k": 4}, content=file).json()
        for element, prediction in zip(row, answer["predictions"], strict=True):
            text = element.decode() if binary else element
            value, index, label = text.split(":")
            assert (int(index), label) == (prediction["index"], prediction["label"])
            assert CLASSES[int(index)] == label
            assert float(value) == pytest.approx(prediction["probability"], abs=1e-6)


def test_concurrent_requests_get_their_own_results(server: Server, session: ort.InferenceSession) -> None:
    """48 requests over 8 connections and one /predict at the same time, so that they share batches."""
    batch = pixels(*range(200, 248))
    with client_of(server, concurrency=8) as client:
        pending = [
            client.async_infer(
                "tiny", [images(crop[None])], outputs=requested_outputs("probabilities"), request_id=str(i)
            )
            for i, crop in enumerate(batch)
        ]
        answer = server.client.post("/predict", params={"top_k": 7}, content=encoded(noise(200)))
        results = [request.get_result() for request in pending]
    assert [result.get_response()["id"] for result in results] == [str(i) for i in range(48)]
    exclusive = np.concatenate(
        [session.run(["probabilities"], {"images": crop[None]})[0] for crop in batch]
    )
    probabilities = np.concatenate([result.as_numpy("probabilities") for result in results])
    distances = np.abs(probabilities[:, None] - exclusive[None]).max(axis=2)
    assert distances.diagonal().max() < 1e-5
    np.fill_diagonal(distances, 1)
    assert distances.min() > 2e-5, "the images are too alike for this test to mean anything"
    best = answer.json()["predictions"][0]
    assert exclusive[0, best["index"]] == pytest.approx(best["probability"], abs=1e-5)


@pytest.mark.parametrize("algorithm", ["gzip", "deflate"])
def test_compressed_requests_are_accepted(client: Any, algorithm: str) -> None:
    batch = pixels(1)
    compressed, uncompressed = (
        client.infer(
            "tiny",
            [images(batch)],
            request_compression_algorithm=coding,
            response_compression_algorithm=coding,
        )
        for coding in (algorithm, None)
    )
    assert np.array_equal(compressed.as_numpy("probabilities"), uncompressed.as_numpy("probabilities"))


def test_server_timing_has_every_stage(server: Server) -> None:
    tensor = {"name": "encoded", "shape": [1], "datatype": "BYTES"}
    body = {"inputs": [tensor | {"data": [base64.b64encode(plain(1)).decode()]}]}
    timing = server.client.post("/v2/models/tiny/infer", json=body).headers["server-timing"]
    stages = dict(stage.split(";dur=") for stage in timing.split(", "))
    assert stages.keys() == {"decode", "queue", "inference", "total"}
    assert 0 < float(stages["decode"]) < float(stages["total"])


def test_openapi_describes_the_protocol(server: Server) -> None:
    document = server.client.get("/openapi.json").json()
    infer = document["paths"]["/v2/models/{name}/versions/{version}/infer"]["post"]
    for content in (infer["requestBody"]["content"], infer["responses"]["200"]["content"]):
        assert content.keys() == {"application/json", "application/octet-stream"}
    assert {"200", "400", "401", "404", "408", "413", "429", "503", "504"} <= infer["responses"].keys()
    assert "422" not in infer["responses"]
    error_schema = infer["responses"]["400"]["content"]["application/json"]["schema"]
    assert json.dumps(error_schema).endswith('/ProtocolError"}')
