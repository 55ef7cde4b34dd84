"""Requests of the Open Inference Protocol, without a server: what is taken arrives as it was sent."""

import base64
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.http.v2.request import Output
from tests.support.serving.tensors import (
    COUNTS,
    MAP,
    PROBABILITIES,
    behind,
    parse,
    pixels,
    prefixed,
    request,
)


@pytest.mark.parametrize("data", [COUNTS, np.arange(12).reshape(1, 2, 2, 3).tolist()])
def test_pixels_as_json_flat_or_nested(data: Any) -> None:
    found = parse(request(pixels(data=data), id="42"))
    assert found.id == "42"
    array = np.asarray(found.inputs["images"])
    assert array.dtype == np.uint8
    assert array.shape == (1, 2, 2, 3)
    assert array.ravel().tolist() == COUNTS


def test_pixels_as_bytes_are_not_copied() -> None:
    body, length = behind(
        request(pixels(data=None, shape=[2, 2, 2, 3], parameters={"binary_data_size": 24})),
        bytes(range(24)),
    )
    array = parse(body, length).inputs["images"]
    assert isinstance(array, np.ndarray)
    assert array.ravel().tolist() == list(range(24))
    assert np.shares_memory(array, np.frombuffer(body, np.uint8))


def test_encoded_images_as_base64_and_as_bytes() -> None:
    files = [b"\xff\xd8 one", b"", b"three"]
    entry = {"name": "encoded", "shape": [3], "datatype": "BYTES"}
    text = request(entry | {"data": [base64.b64encode(file).decode() for file in files]})
    raw = prefixed(*files)
    body, length = behind(request(entry | {"parameters": {"binary_data_size": len(raw)}}), raw)
    assert parse(text).inputs == parse(body, length).inputs == {"encoded": files}


def test_a_header_length_without_binary_data_is_the_whole_body() -> None:
    body = request(pixels())
    assert parse(body, str(len(body))).inputs.keys() == {"images"}


@pytest.mark.parametrize(
    ("more", "wanted"),
    [
        ({}, [Output(PROBABILITIES, False), Output(MAP, False)]),
        ({"outputs": []}, [Output(PROBABILITIES, False), Output(MAP, False)]),
        ({"parameters": {"binary_data_output": True}}, [Output(PROBABILITIES, True), Output(MAP, True)]),
        ({"outputs": [{"name": "conv5"}]}, [Output(MAP, False)]),
        (
            {
                "parameters": {"binary_data_output": True, "custom": "is let pass", "priority": 1},
                "outputs": [
                    {"name": "conv5"},
                    {"name": "probabilities", "parameters": {"binary_data": False, "classification": 3}},
                ],
            },
            [Output(MAP, True), Output(PROBABILITIES, False, 3)],
        ),
    ],
)
def test_the_client_chooses_outputs(more: dict[str, Any], wanted: list[Output]) -> None:
    assert parse(request(pixels(), **more)).outputs == tuple(wanted)


@pytest.mark.parametrize(
    ("given", "seconds"), [({}, math.inf), ({"timeout": 0}, math.inf), ({"timeout": 1500}, 0.0015)]
)
def test_a_timeout_is_in_microseconds(given: dict[str, int], seconds: float) -> None:
    assert parse(request(pixels(), parameters=given)).timeout == seconds


@given(
    st.binary(min_size=12, max_size=96).map(lambda raw: raw[: len(raw) // 12 * 12]),
    st.sampled_from(["flat", "nested", "binary"]),
    st.none() | st.text(),
)
def test_pixels_arrive_as_they_were_sent(raw: bytes, way: str, name: str | None) -> None:
    array = np.frombuffer(raw, np.uint8).reshape(-1, 2, 2, 3)
    entry = pixels(shape=list(array.shape), data=None)
    more = {} if name is None else {"id": name}
    if way == "binary":
        entry["parameters"] = {"binary_data_size": len(raw)}
        found = parse(*behind(request(entry, **more), raw))
    else:
        entry["data"] = array.tolist() if way == "nested" else list(raw)
        found = parse(request(entry, **more))
    assert found.id == name
    assert np.array_equal(np.asarray(found.inputs["images"]), array)


@given(st.lists(st.binary(max_size=20), min_size=1, max_size=8), st.booleans())
def test_files_arrive_as_they_were_sent(sent: list[bytes], binary: bool) -> None:
    entry: dict[str, Any] = {"name": "encoded", "shape": [len(sent)], "datatype": "BYTES"}
    if binary:
        raw = prefixed(*sent)
        found = parse(*behind(request(entry | {"parameters": {"binary_data_size": len(raw)}}), raw))
    else:
        found = parse(request(entry | {"data": [base64.b64encode(file).decode() for file in sent]}))
    assert found.inputs == {"encoded": sent}
