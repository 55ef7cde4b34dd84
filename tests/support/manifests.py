"""Provide a valid manifest, and its JSON with one value changed."""

import json
from typing import Any

from contract.manifest import Manifest, Metrics, Tensor
from contract.recipe import DEFAULT_RECIPE

MANIFEST = Manifest(
    name="flowers",
    version=3,
    architecture={"name": "alexnet", "width": 0.5},
    classes=("daisy", "Löwenzahn", "ひまわり"),
    recipe=DEFAULT_RECIPE,
    mean=(123.5, 116.25, 103.0),
    std=(58.0, 58.0, 58.0),
    opset=17,
    precision="fp16",
    inputs=(Tensor("images", "uint8", (None, 224, 224, 3), "pixels"),),
    outputs=(Tensor("probabilities", "float32", (None, 3), "softmax"),),
    metrics=(Metrics("flowers (validation)", 340, 10, 0.875, 0.99),),
    training={"epochs": 90, "config": {"lr": 0.01}},
    parity={"max_difference": 1e-7},
)


def changed(path: str, value: Any) -> str:
    """Return the JSON of MANIFEST with the value at `path` ("metrics.0.top1") replaced."""
    record = json.loads(MANIFEST.to_json())
    *parents, last = [int(part) if part.isdigit() else part for part in path.split(".")]
    container = record
    for part in parents:
        container = container[part]
    container[last] = value
    return json.dumps(record)
