"""Building responses of the Open Inference Protocol, without a server."""

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from contract.manifest import Tensor
from service.http.v2.request import RequestedOutput
from service.http.v2.response import build_response
from tests.support.serving.tensors import MAP, PROBABILITIES, prefixed

LABELS = ("ash", "box:wood", "cedar", "elm\u00e9")


def read(body: bytes, length: int | None) -> tuple[dict[str, Any], bytes]:
    size = len(body) if length is None else length
    return json.loads(body[:size]), body[size:]


FLOATS = st.floats(width=32, allow_nan=False, allow_infinity=False)


@given(
    st.lists(st.lists(FLOATS, min_size=6, max_size=6), min_size=1, max_size=3), st.booleans(), st.booleans()
)
def test_outputs_round_trip(values: list[list[float]], binary: bool, mixed: bool) -> None:
    array = np.array(values, np.float32)
    arrays = {"conv5": array.reshape(-1, 2, 3), "probabilities": array[:, :4]}
    outputs = (RequestedOutput(MAP, binary), RequestedOutput(PROBABILITIES, binary ^ mixed))
    head, tail = read(*build_response({"id": "\u00e9"}, outputs, arrays, LABELS))
    assert head["id"] == "\u00e9"
    assert [entry["shape"] for entry in head["outputs"]] == [[len(values), 2, 3], [len(values), 4]]
    for entry in head["outputs"]:
        assert entry["datatype"] == "FP32"
        expected = arrays[entry["name"]]
        if "data" in entry:
            values_read = np.array(entry["data"], np.float32).reshape(entry["shape"])
        else:
            size = entry["parameters"]["binary_data_size"]
            values_read, tail = np.frombuffer(tail[:size], "<f4").reshape(entry["shape"]), tail[size:]
        assert np.array_equal(values_read, expected)
    assert tail == b""


@pytest.mark.parametrize("binary", [False, True])
def test_classification_is_value_index_label(binary: bool) -> None:
    rows = np.array([[0.25, 0.5, 1e-7, 0.25], [0, 0.1, 0.2, 0.7]], np.float32)
    output = RequestedOutput(PROBABILITIES, binary, 2)
    body, length = build_response({}, (output,), {"probabilities": rows}, LABELS)
    head, tail = read(body, length)
    (entry,) = head["outputs"]
    assert (entry["name"], entry["datatype"], entry["shape"]) == ("probabilities", "BYTES", [2, 2])
    strings = ["0.5:1:box:wood", "0.25:0:ash", "0.7:3:elm\u00e9", "0.2:2:cedar"]
    if binary:
        assert tail == prefixed(*(string.encode() for string in strings))
        assert entry["parameters"] == {"binary_data_size": len(tail)}
    else:
        assert entry["data"] == strings
        assert (tail, length) == (b"", None)


def test_classification_of_a_map_has_no_labels() -> None:
    arrays = {"conv5": np.array([[[1, 5, 3], [2, 4, 0]]], np.float32)}
    head, _tail = read(*build_response({}, (RequestedOutput(MAP, False, 2),), arrays, LABELS))
    assert head["outputs"][0]["data"] == ["5.0:1", "4.0:4"]


@pytest.mark.parametrize("binary", [False, True])
def test_an_output_without_further_axes_has_a_value_per_image(binary: bool) -> None:
    values = np.array([0.25, 1, 0], np.float32)
    output = RequestedOutput(Tensor("unfamiliarity", "float32", (None,), "0 to 1"), binary)
    head, tail = read(*build_response({}, (output,), {"unfamiliarity": values}, LABELS))
    (entry,) = head["outputs"]
    assert entry["shape"] == [3]
    assert tail == (values.tobytes() if binary else b"")
    assert entry.get("data") == (None if binary else [0.25, 1, 0])


def test_infinity_is_not_written_as_json() -> None:
    arrays = {"conv5": np.full((1, 2, 3), np.inf, np.float32)}
    with pytest.raises(ValueError, match="JSON"):
        build_response({}, (RequestedOutput(MAP, False),), arrays, LABELS)
