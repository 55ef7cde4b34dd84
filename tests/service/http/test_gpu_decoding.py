"""Test over HTTP that answers say which images were decoded on the GPU, and errors are as without one.

The GPU's parts are stand-ins on the CPU, as in tests/service/imaging/test_gpu_decoder.py.
"""

import base64
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import onnxruntime as ort
import pytest

from contract.recipe import DEFAULT_RECIPE, nvjpeg_id
from service.imaging.decoder import ThreadDecoder
from service.imaging.gpu_decoder import GpuDecoder, NvImageCodec
from service.models.session import load_model
from tests.support.nvimgcodec import FakeNvImageCodec
from tests.support.serving.images import encoded, noise
from tests.support.serving.in_process import serving_in_process
from tests.support.serving.responses import by_index

JPEG = encoded(noise(1))
PROGRESSIVE = encoded(noise(1), progressive=True)
ID = nvjpeg_id(DEFAULT_RECIPE)


@pytest.fixture(scope="module")
def client(model_file: Path) -> Iterator[httpx.Client]:
    pixels = 4_000_000
    open_codec = partial(NvImageCodec, FakeNvImageCodec(), "cpu", 1)
    decoder = GpuDecoder(
        ThreadDecoder(pixels),
        open_codec,
        ThreadPoolExecutor(1),
        ort,
        ["CPUExecutionProvider"],
        "cpu",
        pixels,
        1,
        0,
    )
    load = partial(load_model, device="cpu", threads=1)
    with serving_in_process(model_file, load, 1, decoder, max_pixels=pixels) as running:
        yield running.client


def test_answer_says_which_image_the_gpu_decoded(client: httpx.Client) -> None:
    on_gpu, on_cpu = (client.post("/predict", content=file).json() for file in (JPEG, PROGRESSIVE))
    assert on_gpu["image"] == {"width": 320, "height": 240, "format": "JPEG", "preprocessing": ID}
    assert on_cpu["image"] == {"width": 320, "height": 240, "format": "JPEG"}
    # At this size both are decoded at full size, and by libjpeg-turbo, so the pixels are the same.
    assert by_index(on_gpu) == pytest.approx(by_index(on_cpu), abs=1e-6)


def test_ten_crops_and_features_are_those_of_the_same_pixels(client: httpx.Client) -> None:
    answers = [client.post("/predict?crops=10", content=file).json() for file in (JPEG, PROGRESSIVE)]
    assert by_index(answers[0]) == pytest.approx(by_index(answers[1]), abs=1e-6)
    vectors = [client.post("/embed", content=file).json()["embedding"] for file in (JPEG, PROGRESSIVE)]
    assert vectors[0] == pytest.approx(vectors[1], abs=1e-5)


@pytest.mark.parametrize("kind", ["json", "png"])
def test_explanations_have_the_same_pixels(kind: str, client: httpx.Client) -> None:
    answers = [
        client.post(f"/explain?format={kind}", content=file, timeout=60) for file in (JPEG, PROGRESSIVE)
    ]
    if kind == "json":
        assert [answer.json()["image"].get("preprocessing") for answer in answers] == [ID, None]
        assert answers[0].json()["map"] == answers[1].json()["map"]
    else:
        assert answers[0].content == answers[1].content


def test_v2_response_has_an_id_for_each_image(client: httpx.Client) -> None:
    name = client.get("/models").json()[0]["name"]

    def infer(*files: bytes) -> Any:
        data = [base64.b64encode(file).decode() for file in files]
        encoded = {"name": "encoded", "shape": [len(data)], "datatype": "BYTES", "data": data}
        outputs = [{"name": "probabilities"}]
        body = {"inputs": [encoded], "outputs": outputs}
        return client.post(f"/v2/models/{name}/infer", json=body).json()

    assert infer(JPEG, PROGRESSIVE, JPEG)["parameters"] == {"preprocessing": f"{ID},,{ID}"}
    assert "parameters" not in infer(PROGRESSIVE)


@pytest.mark.parametrize(
    ("file", "status"),
    [(b"hello", 415), (JPEG[:900], 422), (JPEG[:-2], 422), (encoded(noise(1, 2100, 2000)), 413)],
)
def test_problems_are_as_without_a_gpu(
    file: bytes, status: int, client: httpx.Client, model_file: Path
) -> None:
    load = partial(load_model, device="cpu", threads=1)
    with serving_in_process(model_file, load, 1, max_pixels=4_000_000) as without:
        answers = [by.post("/predict", content=file) for by in (client, without.client)]
    assert [answer.status_code for answer in answers] == [status] * 2
    assert answers[0].json() == answers[1].json()
