"""Send Open Inference requests with NVIDIA's Triton client."""

import base64
from typing import Any

import httpx
import numpy as np
import pytest
import tritonclient.http as triton  # type: ignore[import-untyped]
from numpy.typing import NDArray
from tritonclient.utils import InferenceServerException  # type: ignore[import-untyped]

from contract.picture import decode
from contract.preprocess import centre_crop
from contract.recipe import DEFAULT_RECIPE
from tests.support.serving.images import encoded, noise
from tests.support.serving.server import Server


def client_of(server: Server, **options: Any) -> Any:
    return triton.InferenceServerClient(server.address.removeprefix("http://"), **options)


def pixels(*seeds: int) -> NDArray[np.uint8]:
    """Return the crops of one image per seed (N, 224, 224, 3)."""
    files = [encoded(noise(seed)) for seed in seeds]
    return np.stack([centre_crop(decode(data, DEFAULT_RECIPE, 10**8), DEFAULT_RECIPE) for data in files])


def images(array: NDArray[np.uint8], binary: bool = True) -> Any:
    tensor = triton.InferInput("images", list(array.shape), "UINT8")
    return tensor.set_data_from_numpy(array, binary_data=binary)


def files(*data: bytes, binary: bool = True) -> Any:
    elements = data if binary else [base64.b64encode(image) for image in data]
    array = np.array(elements, np.object_)
    return triton.InferInput("encoded", [len(data)], "BYTES").set_data_from_numpy(array, binary_data=binary)


def requested_outputs(*names: str, binary: bool = True, top: int = 0) -> list[Any]:
    return [triton.InferRequestedOutput(name, binary_data=binary, class_count=top) for name in names]


def refused(client: Any, *arguments: Any, model: str = "tiny", **options: Any) -> tuple[str, str]:
    """Return status and message of the client's exception."""
    with pytest.raises(InferenceServerException) as raised:
        client.infer(model, *arguments, **options)
    return raised.value.status(), raised.value.message()


def check(response: httpx.Response, status: int, *words: str) -> None:
    """Assert that a response is an error of the protocol with these words, and reveals no internals."""
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/json"
    assert response.json().keys() == {"error"}
    for word in words:
        assert word in response.json()["error"]
    for leak in ("Traceback", 'File "', "/service/", "site-packages", " object at 0x"):
        assert leak not in response.text
