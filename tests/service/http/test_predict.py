"""POST /predict, /health and /models, through a real server on a real socket."""

import hashlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest
from PIL import Image

from contract.picture import decode
from contract.preprocess import centre_crop
from contract.recipe import DEFAULT_RECIPE
from tests.corpus.profiles import display, mpet, profiles
from tests.support.serving.images import encoded, noise
from tests.support.serving.responses import by_index
from tests.support.serving.server import CLASSES, Server, serving


def expected(model_file: Path, data: bytes) -> list[float]:
    """Compute the probabilities of one image with onnxruntime and our preprocessing directly."""
    session = ort.InferenceSession(str(model_file), providers=["CPUExecutionProvider"])
    crop = centre_crop(decode(data, DEFAULT_RECIPE, 10**8), DEFAULT_RECIPE)
    (probabilities,) = session.run(["probabilities"], {"images": crop[None]})
    return [float(p) for p in np.asarray(probabilities)[0]]


def test_response_matches_the_model(server: Server, model_file: Path) -> None:
    data = encoded(noise(1))
    response = server.client.post("/predict", params={"top_k": 7}, files={"file": data})
    answer = response.json()

    assert response.status_code == 200
    assert by_index(answer) == pytest.approx(expected(model_file, data), abs=1e-6)
    assert [CLASSES[p["index"]] for p in answer["predictions"]] == [
        p["label"] for p in answer["predictions"]
    ]
    probabilities = [p["probability"] for p in answer["predictions"]]
    assert probabilities == sorted(probabilities, reverse=True)
    assert sum(probabilities) == pytest.approx(1, abs=1e-5)
    sha256 = hashlib.sha256(model_file.read_bytes()).hexdigest()
    assert answer["model"] == {"name": "tiny", "version": 3, "sha256": sha256}
    assert answer["image"] == {"width": 320, "height": 240, "format": "JPEG"}
    assert answer["timing_ms"].keys() == {"decode", "queue", "inference", "total"}
    assert all(isinstance(v, float) and v >= 0 for v in answer["timing_ms"].values())
    assert answer["timing_ms"]["total"] >= answer["timing_ms"]["decode"]
    assert answer.keys() == {"predictions", "model", "image", "timing_ms"}


@pytest.mark.parametrize(
    "content_type",
    ["image/jpeg", "application/octet-stream", "application/x-www-form-urlencoded", "text/plain", None],
)
def test_a_bare_body_is_taken_under_any_content_type(server: Server, content_type: str | None) -> None:
    data = encoded(noise(2))
    headers = {"Content-Type": content_type} if content_type else {}
    bare = server.client.post("/predict", content=data, headers=headers).json()
    form = server.client.post("/predict", files={"file": data}).json()
    assert bare["predictions"] == form["predictions"]


def test_a_body_in_chunks_is_taken(server: Server) -> None:
    data = encoded(noise(2))

    def chunks() -> Iterator[bytes]:
        for start in range(0, len(data), 1000):
            yield data[start : start + 1000]

    response = server.client.post("/predict", content=chunks())
    assert "content-length" not in response.request.headers
    assert (
        response.json()["predictions"] == server.client.post("/predict", content=data).json()["predictions"]
    )


@pytest.mark.parametrize(("query", "count"), [("", 5), ("?top_k=1", 1), ("?top_k=7", 7)])
def test_top_k_defaults_to_five(server: Server, query: str, count: int) -> None:
    answer = server.client.post("/predict" + query, content=encoded(noise(3))).json()
    assert len(answer["predictions"]) == count


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF", "TIFF", "BMP", "AVIF"])
def test_every_image_format_is_read(server: Server, kind: str) -> None:
    answer = server.client.post("/predict", content=encoded(noise(4), kind)).json()
    assert answer["image"] == {"width": 320, "height": 240, "format": kind}


def test_size_is_reported_after_the_exif_rotation(server: Server) -> None:
    picture = noise(5)
    picture.getexif()[0x0112] = 6
    data = encoded(picture, exif=picture.getexif())
    assert server.client.post("/predict", content=data).json()["image"]["width"] == 240


def test_concurrent_clients_get_their_own_results(server: Server, model_file: Path) -> None:
    """64 clients send one image each at the same time, so that they share batches."""
    images = [encoded(noise(100 + seed), quality=70) for seed in range(64)]

    def ask(data: bytes) -> list[float]:
        return by_index(server.client.post("/predict", params={"top_k": 7}, content=data).json())

    with ThreadPoolExecutor(64) as pool:
        answers = list(pool.map(ask, images))
    exclusive = [expected(model_file, data) for data in images]
    distances = np.abs(np.array(answers)[:, None] - np.array(exclusive)[None]).max(axis=2)
    assert distances.diagonal().max() < 1e-5
    np.fill_diagonal(distances, 1)
    assert distances.min() > 2e-5, "the images are too alike for this test to mean anything"


def test_health_reports_model_and_provider(server: Server, model_file: Path) -> None:
    sha256 = hashlib.sha256(model_file.read_bytes()).hexdigest()
    for path in ("/health", "/health/ready"):
        response = server.client.get(path)
        assert response.status_code == 200
        assert response.json() == {
            "status": "ok",
            "model": {"name": "tiny", "version": 3, "sha256": sha256},
            "provider": "CPUExecutionProvider",
            "models": [{"name": "tiny", "version": 3, "state": "READY", "error": None}],
            "reload_error": None,
        }
    assert server.client.get("/health/live").json() == {"status": "ok"}


def test_models_lists_classes_metrics_and_card(server: Server) -> None:
    (entry,) = server.client.get("/models").json()
    assert entry["classes"] == list(CLASSES)
    assert entry["metrics"] == []
    assert entry["card"] == "# A model for tests\n"
    assert (entry["name"], entry["version"]) == ("tiny", 3)


@pytest.mark.parametrize("processes", [0, 1], ids=["threads", "processes"])
def test_ignored_icc_profile_is_reported(model_file: Path, tmp_path: Path, processes: int) -> None:
    known, plain = profiles(), Image.new("RGB", (64, 64), (200, 30, 90))
    strange = encoded(plain, "PNG", icc_profile=display((b"D2B0", mpet(2, b"matf" + bytes(60)))))
    with serving(tmp_path / "log", model_file, decode_processes=processes) as server:
        info = server.client.post("/predict", content=strange).json()["image"]
        assert info["profile_ignored"] == "its tag 'D2B0' is a chain of elements, which is not read"
        for data in (encoded(plain, "PNG"), encoded(plain, "PNG", icc_profile=known["matrix"])):
            info = server.client.post("/predict", content=data).json()["image"]
            assert info == {"width": 64, "height": 64, "format": "PNG"}
