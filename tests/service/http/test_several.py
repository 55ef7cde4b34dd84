"""Several images in a request, ten-crop and embeddings, through a real server."""

import base64
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest

from contract.picture import decode
from contract.preprocess import centre_crop, square, ten_crops
from contract.recipe import DEFAULT_RECIPE
from tests.support.eventually import eventually
from tests.support.serving.images import encoded, noise, plain
from tests.support.serving.raw_http import half_sent
from tests.support.serving.responses import by_index, check
from tests.support.serving.server import Server, metrics, serving

PHOTOS = [encoded(noise(seed)) for seed in range(3)]


def run(model_file: Path, pixels: Any, output: str) -> Any:
    session = ort.InferenceSession(str(model_file), providers=["CPUExecutionProvider"])
    return session.run([output], {"images": pixels})[0]


def files(*contents: bytes) -> list[tuple[str, tuple[str, bytes]]]:
    return [("file", (f"{number}.jpg", data)) for number, data in enumerate(contents)]


def test_each_image_gets_its_own_result_or_problem_in_order(server: Server) -> None:
    mixed = [PHOTOS[0], b"no image", PHOTOS[1], PHOTOS[2][:500], b""]
    answer = server.client.post("/predict", files=files(*mixed))
    assert answer.status_code == 200
    results = answer.json()["results"]
    for place in (0, 2):
        exclusive = server.client.post("/predict", content=mixed[place]).json()
        assert by_index(results[place]) == pytest.approx(by_index(exclusive), abs=1e-6)
    assert [results[place]["code"] for place in (1, 3, 4)] == [
        "unsupported_image",
        "invalid_image",
        "unsupported_image",
    ]
    assert results[1].keys() == {"file", "type", "title", "status", "detail", "code"}
    assert [result["file"] for result in results] == [f"{number}.jpg" for number in range(5)]


def test_failing_batch_fails_the_request_and_releases_its_images(
    fragile_model: Path, tmp_path: Path
) -> None:
    """Its other images are cancelled: else the next request would have seen them in the metrics."""
    with serving(tmp_path / "log", fragile_model, max_batch=1) as server:
        failing = files(plain(250), *[plain(5)] * 199)
        check(server.client.post("/predict", files=failing), 500, "internal")
        assert metrics(server)["alexnet_in_flight_images"] == 0
        assert len(server.client.post("/predict", files=files(plain(5), plain(6))).json()["results"]) == 2
        assert metrics(server)["alexnet_images_total"] < 100


def test_json_with_base64(server: Server) -> None:
    texts = [base64.b64encode(data).decode() for data in PHOTOS]
    single = server.client.post("/predict", json={"image": texts[0]}).json()
    many = server.client.post("/predict", json={"images": texts[:1]}).json()
    exclusive = server.client.post("/predict", content=PHOTOS[0]).json()
    assert single["predictions"] == many["results"][0]["predictions"] == exclusive["predictions"]
    assert len(server.client.post("/predict", json={"images": texts}).json()["results"]) == 3


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"{", "JSON"),
        (b"[" * 100_000, "JSON"),
        (b"[" + b"[]," * 1_000_000, "values"),
        (b"[]", "must be an object"),
        (b"{}", "must be"),
        (b'{"image": "aGVsbG8=", "images": []}', "must be"),
        (b'{"image": 5}', "`image`"),
        (b'{"images": []}', "`images`"),
        (b'{"images": ["aGVsbG8=", null]}', "`images`"),
        (b'{"image": "not base64!"}', "not base64"),
        (b'{"image": ""}', "empty"),
    ],
)
def test_unusable_json_is_refused(server: Server, body: bytes, message: str) -> None:
    answer = server.client.post("/predict", content=body, headers={"Content-Type": "application/json"})
    check(answer, 422, "invalid_request", message)


def test_ten_crop_is_the_mean_of_the_softmax(server: Server, model_file: Path) -> None:
    pixels = ten_crops(square(decode(PHOTOS[0], DEFAULT_RECIPE, 10**8), DEFAULT_RECIPE), DEFAULT_RECIPE)
    expected = run(model_file, pixels, "probabilities").mean(axis=0)
    answer = server.client.post("/predict", params={"crops": 10, "top_k": 7}, content=PHOTOS[0]).json()
    assert by_index(answer) == pytest.approx(expected.tolist(), abs=1e-6)
    single = server.client.post("/predict", params={"top_k": 7}, content=PHOTOS[0]).json()
    assert by_index(answer) != pytest.approx(by_index(single), abs=1e-6)
    check(server.client.post("/predict?crops=5", content=PHOTOS[0]), 422, "invalid_request", "crops")


def test_features_are_fc7(server: Server, model_file: Path) -> None:
    crop = centre_crop(decode(PHOTOS[1], DEFAULT_RECIPE, 10**8), DEFAULT_RECIPE)
    expected = run(model_file, crop[None], "fc7")[0]
    answer = server.client.post("/embed", content=PHOTOS[1]).json()
    assert answer.keys() == {"embedding", "model", "image", "timing_ms"}
    assert answer["embedding"] == pytest.approx(expected.tolist(), abs=1e-5)

    raw = server.client.post("/embed?format=raw&normalize=true", files=files(PHOTOS[1], PHOTOS[2]))
    assert raw.headers["content-type"] == "application/octet-stream"
    vectors = np.frombuffer(raw.content, "<f4").reshape(2, -1)
    assert np.linalg.norm(vectors, axis=1) == pytest.approx([1, 1], abs=1e-5)
    assert vectors[0] == pytest.approx(expected / np.linalg.norm(expected), abs=1e-5)
    check(
        server.client.post("/embed?format=raw", files=files(PHOTOS[1], b"x")),
        422,
        "invalid_request",
        "image 2",
    )


def test_every_image_crop_and_occlusion_counts_against_max_queue(model_file: Path, tmp_path: Path) -> None:
    """A request that can never fit into MAX_QUEUE is refused with 422 instead of 429."""
    with serving(tmp_path / "log", model_file, max_queue=9) as server:
        assert server.client.post("/predict", files=files(*PHOTOS)).status_code == 200
        check(server.client.post("/predict?crops=10", content=PHOTOS[0]), 422, "invalid_request", "10", "9")
        check(server.client.post("/predict", files=files(*[PHOTOS[0]] * 10)), 422, "invalid_request", "9")
        check(server.client.post("/explain", content=PHOTOS[0]), 422, "invalid_request", "50", "9")
        assert server.client.post("/predict", content=PHOTOS[0]).status_code == 200


def test_request_is_cancelled_on_disconnect(fragile_model: Path, tmp_path: Path) -> None:
    """Disconnect while the server waits for the body: the request ends and counts as status 499."""
    with serving(tmp_path / "log", fragile_model, max_queue=1) as server:
        with half_sent(server, plain(1)):
            pass
        eventually(lambda: 'route="/predict",status="499"} 1.0' in server.client.get("/metrics").text)
        assert server.client.post("/predict", content=plain(1)).status_code == 200
        assert server.log == ""
