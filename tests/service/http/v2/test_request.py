"""Parsing of valid requests of the Open Inference Protocol, without a server."""

import base64
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.http.v2.request import RequestedOutput
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
    parsed = parse(request(pixels(data=data), id="42"))
    assert parsed.id == "42"
    array = np.asarray(parsed.inputs["images"])
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


def test_header_length_without_binary_data_is_the_whole_body() -> None:
    body = request(pixels())
    assert parse(body, str(len(body))).inputs.keys() == {"images"}


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        ({}, [RequestedOutput(PROBABILITIES, False), RequestedOutput(MAP, False)]),
        ({"outputs": []}, [RequestedOutput(PROBABILITIES, False), RequestedOutput(MAP, False)]),
        (
            {"parameters": {"binary_data_output": True}},
            [RequestedOutput(PROBABILITIES, True), RequestedOutput(MAP, True)],
        ),
        ({"outputs": [{"name": "conv5"}]}, [RequestedOutput(MAP, False)]),
        (
            {
                "parameters": {"binary_data_output": True, "custom": "is ignored", "priority": 1},
                "outputs": [
                    {"name": "conv5"},
                    {"name": "probabilities", "parameters": {"binary_data": False, "classification": 3}},
                ],
            },
            [RequestedOutput(MAP, True), RequestedOutput(PROBABILITIES, False, 3)],
        ),
    ],
)
def test_requested_outputs(more: dict[str, Any], expected: list[RequestedOutput]) -> None:
    assert parse(request(pixels(), **more)).outputs == tuple(expected)


@pytest.mark.parametrize(
    ("parameters", "seconds"), [({}, math.inf), ({"timeout": 0}, math.inf), ({"timeout": 1500}, 0.0015)]
)
def test_timeout_is_in_microseconds(parameters: dict[str, int], seconds: float) -> None:
    assert parse(request(pixels(), parameters=parameters)).timeout == seconds


@given(
    st.binary(min_size=12, max_size=96).map(lambda raw: raw[: len(raw) // 12 * 12]),
    st.sampled_from(["flat", "nested", "binary"]),
    st.none() | st.text(),
)
def test_pixels_round_trip(raw: bytes, encoding: str, name: str | None) -> None:
    array = np.frombuffer(raw, np.uint8).reshape(-1, 2, 2, 3)
    entry = pixels(shape=list(array.shape), data=None)
    more = {} if name is None else {"id": name}
    if encoding == "binary":
        entry["parameters"] = {"binary_data_size": len(raw)}
        parsed = parse(*behind(request(entry, **more), raw))
    else:
        entry["data"] = array.tolist() if encoding == "nested" else list(raw)
        parsed = parse(request(entry, **more))
    assert parsed.id == name
    assert np.array_equal(np.asarray(parsed.inputs["images"]), array)


@given(st.lists(st.binary(max_size=20), min_size=1, max_size=8), st.booleans())
def test_files_round_trip(sent: list[bytes], binary: bool) -> None:
    entry: dict[str, Any] = {"name": "encoded", "shape": [len(sent)], "datatype": "BYTES"}
    if binary:
        raw = prefixed(*sent)
        parsed = parse(*behind(request(entry | {"parameters": {"binary_data_size": len(raw)}}), raw))
    else:
        parsed = parse(request(entry | {"data": [base64.b64encode(file).decode() for file in sent]}))
    assert parsed.inputs == {"encoded": sent}
