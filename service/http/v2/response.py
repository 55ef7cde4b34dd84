"""The Open Inference Protocol's answers to what `service.http.v2.request` has read."""

import json
from collections.abc import Mapping, Sequence
from itertools import chain
from typing import Any

import numpy as np
from numpy.typing import NDArray

from service.http.v2.request import DATATYPES, PREFIX, Output


def build_response(
    head: Mapping[str, Any],
    outputs: Sequence[Output],
    rows: Sequence[Mapping[str, NDArray[np.float32]]],
    labels: Sequence[str],
) -> tuple[bytes, int | None]:
    """`head` has what comes before the outputs; `rows` are those of each image; `labels` are of the output
    `probabilities`. -> the body, and the length of its JSON where bytes follow it.
    """
    texts, behind = [], []
    for output in outputs:
        name = output.tensor.name
        values = [row[name] for row in rows]
        entry: dict[str, Any] = {"name": name}
        if output.classification:
            known = labels if name == "probabilities" else ()
            strings = [_classify(value, output.classification, known) for value in values]
            entry |= {"datatype": "BYTES", "shape": [len(rows), output.classification]}
            raw = b"".join(_prefixed(string.encode()) for string in chain.from_iterable(strings))
        else:
            entry |= {"datatype": DATATYPES["float32"], "shape": [len(rows), *values[0].shape]}
            raw = b"".join(value.astype("<f4", copy=False).tobytes() for value in values)
        if output.binary:
            behind.append(raw)
            texts.append(json.dumps(entry | {"parameters": {"binary_data_size": len(raw)}}))
            continue
        plain = strings if output.classification else (value.ravel().tolist() for value in values)
        # A row at a time, because whoever else wants the interpreter waits for the whole call.
        data = ", ".join(json.dumps(row, allow_nan=False)[1:-1] for row in plain)
        texts.append(f'{json.dumps(entry)[:-1]}, "data": [{data}]}}')
    text = f'{json.dumps(head)[:-1]}{", " if head else ""}"outputs": [{", ".join(texts)}]}}'.encode()
    return b"".join([text, *behind]), len(text) if behind else None


def _classify(values: NDArray[np.float32], top: int, labels: Sequence[str]) -> list[str]:
    flat = values.ravel()
    order = np.argsort(-flat, kind="stable")[:top].tolist()
    # str() of a float32 is the shortest that reads back as the same.
    return [f"{flat[i]!s}:{i}{f':{labels[i]}' if labels else ''}" for i in order]


def _prefixed(element: bytes) -> bytes:
    return len(element).to_bytes(PREFIX, "little") + element
