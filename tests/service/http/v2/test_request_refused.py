"""Invalid requests of the Open Inference Protocol are refused.

The message names the field, its value and what is expected.
"""

import json
import time
import tracemalloc
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from contract.manifest import Tensor
from service.errors import InvalidRequest
from service.http.body.json_fields import MAX_JSON_VALUES
from service.http.v2.request import parse_request
from tests.support.serving.tensors import COUNTS, PIXELS, behind, parse, pixels, prefixed, request

INVALID_JSON: list[tuple[bytes, str]] = [
    (b"", "JSON"),
    (b"\xff\xfe{}", "JSON"),
    ("\ufeff{}".encode(), "inputs is None"),
    ("\ufeff\ufeff{}".encode(), "JSON"),
    (b"[]", "must be an object"),
    (b"null", "must be an object"),
    (b"{} {}", "JSON"),
    (b"{" * 100_000, "JSON"),
    (b"[" * 100_000, "JSON"),
    (b'{"inputs": NaN}', "NaN"),
    (b'{"id": -Infinity}', "-Infinity"),
    (b'{"id": ' + b"9" * 5000 + b"}", "JSON"),
    (b'{"id": "a", "id": "b"}', "'id' twice"),
    (request(pixels(), id=7), "id is 7; it must be a string"),
    (request(pixels(), parameters=[]), "the request has parameters []"),
    (request(pixels(), parameters={"binary_data_output": 1}), "parameters.binary_data_output is 1"),
    (request(pixels(), parameters={"timeout": -1}), "parameters.timeout is -1"),
    (request(pixels(), parameters={"timeout": 0.5}), "parameters.timeout is 0.5"),
    (b"{}", "inputs is None; it must be a list of objects"),
    (request(), "inputs has 0 tensors; send one, images or encoded"),
    (request(7), "inputs is [7]; it must be a list of objects"),
    (b'{"inputs": {"name": "images"}}', "inputs is an object; it must be a list of objects"),
    (request(pixels(name=None)), "inputs[0].name is None; this model has images, encoded"),
    (request(pixels(name=["images"])), "inputs[0].name is ['images']; this model has images, encoded"),
    (request(pixels(), pixels()), "inputs[1].name is 'images' again"),
    (
        request(pixels(), {"name": "encoded", "shape": [1], "datatype": "BYTES", "data": [""]}),
        "inputs has 2 tensors; send one",
    ),
    (request(pixels(datatype="FP32")), "inputs[0].datatype is 'FP32'; images takes UINT8"),
    (request(pixels(datatype=None)), "inputs[0].datatype is None; images takes UINT8"),
    (request(pixels(shape=None)), "inputs[0].shape is None; images takes [N, 2, 2, 3]"),
    (request(pixels(shape="1223")), "inputs[0].shape is '1223'"),
    (request(pixels(shape=[1, 2, 2])), "inputs[0].shape is [1, 2, 2]; images takes [N, 2, 2, 3]"),
    (request(pixels(shape=[1, 3, 2, 2])), "inputs[0].shape is [1, 3, 2, 2]"),
    (request(pixels(shape=[1, 2, 2, 3.0])), "inputs[0].shape is [1, 2, 2, 3.0]"),
    (request(pixels(shape=[True, 2, 2, 3])), "inputs[0].shape is [True, 2, 2, 3]"),
    (request(pixels(shape=[-1, 2, 2, 3])), "inputs[0].shape[0] is -1; one request takes 1 to 8 images"),
    (request(pixels(shape=[0, 2, 2, 3], data=[])), "inputs[0].shape[0] is 0"),
    (request(pixels(shape=[9, 2, 2, 3])), "inputs[0].shape[0] is 9; one request takes 1 to 8 images"),
    (request(pixels(shape=[2**63, 2, 2, 3])), "inputs[0].shape[0] is 9223372036854775808"),
    (request(pixels(data=None)), "inputs[0] must have either data or parameters.binary_data_size"),
    (request(pixels(parameters={"binary_data_size": 12})), "inputs[0] must have either data or"),
    (request(pixels(parameters=7)), "inputs[0] has parameters 7"),
    (request(pixels(parameters={"shared_memory_region": "r"})), "shared_memory_region"),
    (request(pixels(data=7)), "inputs[0].data has 7 where shape [1, 2, 2, 3] has 12"),
    (request(pixels(data={})), "inputs[0].data has an object where"),
    (request(pixels(data=[])), "inputs[0].data has 0 values where shape [1, 2, 2, 3] has 12"),
    (request(pixels(data=COUNTS[:-1])), "inputs[0].data has 11 values"),
    (request(pixels(data=[*COUNTS, 1])), "inputs[0].data has 13 values"),
    (request(pixels(data=[COUNTS])), "inputs[0].data has 12 values where shape [1, 2, 2, 3] has 2"),
    (request(pixels(data=[[[[0] * 3] * 2, 7]])), "inputs[0].data has 7 where"),
    (request(pixels(data=[[[[0] * 3] * 2, [[0] * 3, [0] * 4]]])), "inputs[0].data has 4 values where"),
    (request(pixels(data=[[[[[0]] * 3] * 2] * 2])), "inputs[0].data has [0]; UINT8 takes"),
    (request(pixels(data=[*COUNTS[:-1], 256])), "inputs[0].data has 256; UINT8 takes whole numbers"),
    (request(pixels(data=[*COUNTS[:-1], -1])), "inputs[0].data has -1; UINT8 takes"),
    (request(pixels(data=[*COUNTS[:-1], 1.0])), "inputs[0].data has 1.0; UINT8 takes"),
    (request(pixels(data=[*COUNTS[:-1], True])), "inputs[0].data has True; UINT8 takes"),
    (request(pixels(data=[*COUNTS[:-1], None])), "inputs[0].data has None; UINT8 takes"),
    (request(pixels(data=[*COUNTS[:-1], "1"])), "inputs[0].data has '1'; UINT8 takes"),
    (request(pixels(data=[*COUNTS[:-1], 10**40])), "UINT8 takes"),
    (
        request({"name": "encoded", "shape": [1], "datatype": "BYTES", "data": ["not base64!"]}),
        "inputs[0].data[0] is 'not base64!'; it must be a string of base64",
    ),
    (
        request({"name": "encoded", "shape": [1], "datatype": "BYTES", "data": ["\u00e9\ud800=="]}),
        "it must be a string of base64",
    ),
    (
        request({"name": "encoded", "shape": [2], "datatype": "BYTES", "data": ["", 7]}),
        "inputs[0].data[1] is 7; it must be a string of base64",
    ),
    (request({"name": "encoded", "shape": [1, 1], "datatype": "BYTES", "data": [""]}), "encoded takes [N]"),
    (request(pixels(), outputs=7), "outputs is 7; it must be a list of objects"),
    (request(pixels(), outputs=["fc7"]), "outputs is ['fc7']"),
    (request(pixels(), outputs=[{"name": "fc9"}]), "outputs[0].name is 'fc9'; this model has"),
    (request(pixels(), outputs=[{"name": "conv5"}] * 2), "outputs[1].name is 'conv5' again"),
    *(
        (request(pixels(), outputs=[{"name": "conv5", "parameters": parameters}]), message)
        for parameters, message in [
            ("x", "outputs[0] has parameters 'x'"),
            (
                {"binary_data": "yes"},
                "outputs[0].parameters.binary_data is 'yes'; it must be true or false",
            ),
            ({"classification": 7}, "outputs[0].parameters.classification is 7; conv5 has 6 values"),
            ({"classification": -1}, "outputs[0].parameters.classification is -1"),
            ({"classification": 1.5}, "outputs[0].parameters.classification is 1.5"),
            ({"classification": True}, "outputs[0].parameters.classification is True"),
            ({"shared_memory_region": "r"}, "outputs[0].parameters has shared_memory_region"),
        ]
    ),
]


@pytest.mark.parametrize(("body", "message"), INVALID_JSON)
def test_invalid_json_is_refused(body: bytes, message: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        parse(body)
    assert message in str(refused.value)
    assert len(str(refused.value)) < 400
    str(refused.value).encode()  # no lone surrogate, which could not be sent


BINARY = request(pixels(data=None, parameters={"binary_data_size": 12}))


FILES = {"name": "encoded", "shape": [2], "datatype": "BYTES"}


def files(size: Any) -> bytes:
    return request(FILES | {"parameters": {"binary_data_size": size}})


@pytest.mark.parametrize(
    ("body", "length", "message"),
    [
        (BINARY + bytes(12), None, "JSON"),
        (BINARY, None, "Inference-Header-Content-Length is missing"),
        *(
            (BINARY + bytes(12), length, f"is {length!r}")
            for length in ("-1", "x", "", "1e1", "\u0661", "9" * 16)
        ),
        (BINARY + bytes(12), str(len(BINARY) + 13), "at most the body's"),
        (BINARY + bytes(12), str(len(BINARY) - 1), "JSON"),
        (BINARY + bytes(12), "0", "JSON"),
        (*behind(BINARY, bytes(11)), "binary_data_size is 12; 11 bytes are left"),
        (*behind(BINARY, bytes(13)), "1 bytes follow the last tensor"),
        (*behind(request(pixels()), b"x"), "1 bytes follow the last tensor"),
        *(
            (
                *behind(request(pixels(data=None, parameters={"binary_data_size": size})), bytes(24)),
                f"inputs[0].parameters.binary_data_size is {size}",
            )
            for size in (-1, 0, 11, 24, 2**64, 12.0, True)
        ),
        (*behind(files(0)), "element 0 goes past the 0 bytes"),
        (*behind(files(3), b"\0\0\0"), "element 0 goes past"),
        (*behind(files(9), b"\xff\xff\xff\xff12345"), "element 0 goes past the 9 bytes"),
        (*behind(files(6), prefixed(b"ab")), "element 1 goes past the 6 bytes"),
        (*behind(files(9), prefixed(b"ab"), b"\0\0\0"), "element 1 goes past the 9 bytes"),
        (*behind(files(13), prefixed(b"a", b"b", b"")[:13]), "3 bytes follow its 2 elements"),
    ],
)
def test_invalid_binary_data_is_refused(body: bytes, length: str | None, message: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        parse(body, length)
    assert message in str(refused.value)


def test_json_with_too_many_values_is_not_parsed() -> None:
    for filler in (
        b"[" * (MAX_JSON_VALUES + 1),
        b"0," * (MAX_JSON_VALUES + 1),
        b"{}" * (MAX_JSON_VALUES + 1),
    ):
        with pytest.raises(InvalidRequest, match="send tensors as binary data, or fewer images"):
            parse(b'{"inputs": [' + filler)


def test_response_with_too_many_json_values_is_not_computed() -> None:
    large = Tensor("conv5", "float32", (None, MAX_JSON_VALUES // 2), "a map")
    shape = [3, 2, 2, 3]
    body, length = behind(
        request(pixels(data=None, shape=shape, parameters={"binary_data_size": 36})), bytes(36)
    )
    with pytest.raises(InvalidRequest, match=f"{3 * (MAX_JSON_VALUES // 2)} JSON values.*binary_data"):
        parse_request(body, length, (PIXELS,), (large,), 8)


def test_many_keys_take_linear_time() -> None:
    """An object of 200,000 keys with a duplicate at the end: quadratic time would be minutes."""
    keys = ",".join(f'"{number}":0' for number in range(200_000))
    started = time.perf_counter()
    with pytest.raises(InvalidRequest, match="'199999' twice"):
        parse(f'{{{keys},"199999":0}}'.encode())
    assert time.perf_counter() - started < 20


def test_declared_sizes_allocate_nothing() -> None:
    """Bodies of a few bytes declare a gigabyte by shape, and elements of 4 GB by length prefix."""
    requests = [
        behind(
            request(pixels(data=None, shape=[2**30, 2, 2, 3], parameters={"binary_data_size": 12})),
            bytes(12),
        ),
        behind(request(FILES | {"shape": [2**30], "parameters": {"binary_data_size": 4}}), b"\xff" * 4),
        behind(request(pixels(shape=[2**30, 2, 2, 3]))),
    ]
    tracemalloc.start()
    try:
        for body, length in requests:
            with pytest.raises(InvalidRequest):
                parse(body, length, max_images=2**40)
        assert tracemalloc.get_traced_memory()[1] < 1_000_000
    finally:
        tracemalloc.stop()


NAMES = st.sampled_from(["name", "shape", "datatype", "parameters", "data", "inputs", "outputs", "id"])


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text()
    | st.sampled_from(["images", "UINT8"]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(NAMES | st.text(), inner, max_size=4),
)


@given(st.binary(max_size=200), st.none() | st.text(max_size=5) | st.integers(0, 300).map(str))
@example(b"{}", "2")
def test_arbitrary_bytes_raise_only_invalid_request(body: bytes, length: str | None) -> None:
    with pytest.raises(InvalidRequest):
        parse(body, length)


@given(JSON, JSON, JSON, st.binary(max_size=40))
def test_arbitrary_json_raises_only_invalid_request(
    entry: Any, outputs: Any, more: Any, tail: bytes
) -> None:
    bodies = [
        {"inputs": [entry], "outputs": outputs},
        {"inputs": entry, "parameters": more},
        {"inputs": [pixels(data=None, parameters=entry)], "parameters": more},
        {"inputs": [pixels(data=entry)], "outputs": [{"name": "conv5", "parameters": more}]},
        {"inputs": [pixels(shape=entry)], "outputs": [more]},
        more,
    ]
    for body in bodies:
        head = json.dumps(body).encode()
        for length in (None, str(len(head))):
            try:
                parsed = parse(head + tail, length)
            except InvalidRequest as error:
                str(error).encode()
            else:
                assert set(parsed.inputs) <= {"images", "encoded"}
