"""Define the tensors of a small model, and build Open Inference requests for them."""

import json
import struct
from typing import Any

from contract.manifest import Tensor
from service.http.v2.request import InferRequest, parse_request

# Small pixels, so that examples can be read.
PIXELS = Tensor("images", "uint8", (None, 2, 2, 3), "pixels")
ENCODED = Tensor("encoded", "bytes", (None,), "image files")
PROBABILITIES = Tensor("probabilities", "float32", (None, 4), "softmax")
MAP = Tensor("conv5", "float32", (None, 2, 3), "a map")
COUNTS = list(range(12))


def parse(body: bytes, length: str | None = None, max_images: int = 8) -> InferRequest:
    return parse_request(body, length, (PIXELS, ENCODED), (PROBABILITIES, MAP), max_images)


def pixels(**changes: Any) -> dict[str, Any]:
    """Return an input as JSON; values that are None are left out."""
    entry = {"name": "images", "shape": [1, 2, 2, 3], "datatype": "UINT8", "data": COUNTS} | changes
    return {key: value for key, value in entry.items() if value is not None}


def request(*inputs: Any, **more: Any) -> bytes:
    return json.dumps({"inputs": list(inputs), **more}).encode()


def behind(head: bytes, *parts: bytes) -> tuple[bytes, str]:
    """Append binary data to a JSON head; return the body and the length of the head."""
    return b"".join([head, *parts]), str(len(head))


def prefixed(*elements: bytes) -> bytes:
    """Encode BYTES elements: each after its length in 4 bytes."""
    return b"".join(struct.pack("<I", len(element)) + element for element in elements)
