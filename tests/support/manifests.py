"""Provide a valid manifest, and its JSON with one value changed."""

import json
from dataclasses import replace
from typing import Any

from contract.manifest import Manifest, Metrics, Tensor
from contract.recipe import DEFAULT_RECIPE
from contract.trust import (
    COVERAGES,
    UNFAMILIARITY,
    CoverageResult,
    Familiarity,
    Share,
    Trust,
    UnfamiliarResult,
)

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
TRUST = Trust(
    photographs=340,
    method="cross-fitting",
    temperature=1.375,
    ece_before=Share(0.0625, 0.05, 0.075),
    ece=Share(0.02, 0.01, 0.04),
    quantiles={key: (1 + n) / 64 for n, key in enumerate(COVERAGES[:46])},  # 0.50 to 0.95
    sets=(CoverageResult(0.9, Share(0.91, 0.85, 0.95), 1.25),),
    familiarity=Familiarity(
        unknown_above=0.95,
        known=Share(0.95, 0.91, 0.98),
        references=850,
        background=1000,
        unfamiliar=(UnfamiliarResult("cats and dogs", 50, 0.97, 0.125, 0.04),),
    ),
)
TRUSTED = replace(
    MANIFEST,
    outputs=(*MANIFEST.outputs, Tensor(UNFAMILIARITY, "float32", (None,), "0 to 1")),
    trust=TRUST,
)


def changed(path: str, value: Any, manifest: Manifest = MANIFEST) -> str:
    """Return the manifest's JSON with the value at `path` ("metrics.0.top1") replaced."""
    record = json.loads(manifest.to_json())
    *parents, last = [int(part) if part.isdigit() else part for part in path.split(".")]
    container = record
    for part in parents:
        container = container[part]
    container[last] = value
    return json.dumps(record)
