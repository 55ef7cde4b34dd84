"""The output `unfamiliarity` of the Open Inference Protocol: one value for each image."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from tests.support.serving.images import colour, plain
from tests.support.serving.server import Server
from tests.support.serving.triton import client_of, files, images, refused, requested_outputs

LEVELS = (10, 200, 250)
EXPECTED = [level / 255 for level in LEVELS]


@pytest.fixture(scope="module")
def client(trusted: Server) -> Iterator[Any]:
    with client_of(trusted) as connected:
        yield connected


def crops() -> Any:
    return np.stack([np.full((224, 224, 3), level, np.uint8) for level in LEVELS])


def test_metadata_lists_the_output(client: Any) -> None:
    *_others, output = client.get_model_metadata("trusted")["outputs"]
    assert output == {"name": "unfamiliarity", "datatype": "FP32", "shape": [-1]}
    assert [output["name"] for output in client.get_model_metadata("untested")["outputs"]] == [
        "probabilities"
    ]


@pytest.mark.parametrize("binary", [True, False], ids=["binary", "JSON"])
@pytest.mark.parametrize("sent", [images(crops()), files(*map(plain, LEVELS))], ids=["pixels", "files"])
def test_each_image_has_a_value(client: Any, sent: Any, binary: bool) -> None:
    outputs = requested_outputs("unfamiliarity", "probabilities", binary=binary)
    result = client.infer("trusted", [sent], outputs=outputs)
    values = result.as_numpy("unfamiliarity")
    assert (values.dtype, values.shape) == (np.float32, (3,))
    np.testing.assert_allclose(values, EXPECTED, atol=1e-6)
    assert result.as_numpy("probabilities").shape == (3, 3)


def test_default_outputs_include_it(client: Any) -> None:
    head = client.infer("trusted", [images(crops()[:1])]).get_response()
    assert [output["name"] for output in head["outputs"]] == ["probabilities", "unfamiliarity"]
    assert head["outputs"][1]["shape"] == [1]
    assert head["outputs"][1]["parameters"] == {"binary_data_size": 4}


@pytest.mark.parametrize("binary", [True, False], ids=["binary", "JSON"])
def test_classification_has_the_value_without_a_label(client: Any, binary: bool) -> None:
    output = requested_outputs("unfamiliarity", binary=binary, top=1)
    rows = client.infer("trusted", [images(crops())], outputs=output).as_numpy("unfamiliarity")
    assert rows.shape == (3, 1)
    texts = [element.decode() if binary else element for (element,) in rows]
    assert [index for _value, index in (text.split(":") for text in texts)] == ["0"] * 3
    assert [float(text.split(":")[0]) for text in texts] == pytest.approx(EXPECTED, abs=1e-6)


def test_more_than_one_value_is_refused(client: Any) -> None:
    outputs = requested_outputs("unfamiliarity", top=2)
    status, message = refused(client, [images(crops())], outputs=outputs, model="trusted")
    assert status == "400"
    assert "classification is 2; unfamiliarity has 1 values" in message
    outputs = requested_outputs("unfamiliarity")
    status, message = refused(client, [images(crops())], outputs=outputs, model="untested")
    assert (status, "this model has probabilities" in message) == ("400", True)


def test_values_are_those_of_predict(client: Any, trusted: Server) -> None:
    data = colour(200, 10, 90)
    (value,) = client.infer("trusted", [files(data)]).as_numpy("unfamiliarity").tolist()
    assert value == trusted.client.post("/predict", content=data).json()["unfamiliarity"]
