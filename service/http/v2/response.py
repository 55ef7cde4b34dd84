"""Build Open Inference Protocol responses: JSON, or JSON and binary tensors."""

import json
from collections.abc import Mapping, Sequence
from itertools import chain
from typing import Any

import numpy as np
from numpy.typing import NDArray

from service.http.v2.request import DATATYPES, LENGTH_BYTES, RequestedOutput


def build_response(
    head: Mapping[str, Any],
    outputs: Sequence[RequestedOutput],
    arrays: Mapping[str, NDArray[np.float32]],
    labels: Sequence[str],
) -> tuple[bytes, int | None]:
    """Return the body, and the length of its JSON part if binary data follows it (else None).

    `head` holds the fields before the outputs; `arrays` has the outputs, each with a row per image;
    `labels` are those of the output `probabilities`.
    """
    texts, binary_parts = [], []
    for output in outputs:
        name = output.tensor.name
        values = arrays[name]
        entry: dict[str, Any] = {"name": name}
        if output.classification:
            output_labels = labels if name == "probabilities" else ()
            strings = [_classify(value, output.classification, output_labels) for value in values]
            entry |= {"datatype": "BYTES", "shape": [len(values), output.classification]}
            raw = b"".join(_prefixed(string.encode()) for string in chain.from_iterable(strings))
        else:
            entry |= {"datatype": DATATYPES["float32"], "shape": list(values.shape)}
            raw = values.astype("<f4", copy=False).tobytes()
        if output.binary:
            binary_parts.append(raw)
            texts.append(json.dumps(entry | {"parameters": {"binary_data_size": len(raw)}}))
            continue
        values_by_row = strings if output.classification else (value.ravel().tolist() for value in values)
        # One row per call, because each call holds the GIL.
        data = ", ".join(json.dumps(row, allow_nan=False)[1:-1] for row in values_by_row)
        texts.append(f'{json.dumps(entry)[:-1]}, "data": [{data}]}}')
    text = f'{json.dumps(head)[:-1]}{", " if head else ""}"outputs": [{", ".join(texts)}]}}'.encode()
    return b"".join([text, *binary_parts]), len(text) if binary_parts else None


def _classify(values: NDArray[np.float32], top: int, labels: Sequence[str]) -> list[str]:
    flat = values.ravel()
    order = np.argsort(-flat, kind="stable")[:top].tolist()
    # str() of a float32 is the shortest text that parses to the same value.
    return [f"{flat[i]!s}:{i}{f':{labels[i]}' if labels else ''}" for i in order]


def _prefixed(element: bytes) -> bytes:
    return len(element).to_bytes(LENGTH_BYTES, "little") + element
