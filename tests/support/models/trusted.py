"""A small model file with the section trust, whose values follow from an image's mean colour."""

from dataclasses import replace
from pathlib import Path
from typing import Final

import numpy as np
import onnx
from onnx import TensorProto, helper

from contract.manifest import METADATA_KEY, Manifest, Tensor
from contract.trust import (
    COVERAGES,
    UNFAMILIARITY,
    CoverageResult,
    Familiarity,
    Share,
    Trust,
    UnfamiliarResult,
)
from tests.support.models.small_models import write_model

CLASSES: Final = ("red", "green", "blue")
SHARPNESS: Final = 8.0  # of the softmax
BRIGHTNESS: Final = 1 + 3e-7  # a white image gets a little more than 1, as sums in float32 may
UNKNOWN_ABOVE: Final = 0.75
MAX_PERCENT: Final = 95  # the highest coverage that the photographs support

FAMILIARITY: Final = Familiarity(
    unknown_above=UNKNOWN_ABOVE,
    known=Share(0.95, 0.91, 0.98),
    references=120,
    background=0,
    unfamiliar=(UnfamiliarResult("cats", 50, 0.97, 0.1, 0.04),),
)
TRUST: Final = Trust(
    photographs=40,
    method="halves",
    temperature=1.25,
    ece_before=Share(0.08, 0.06, 0.1),
    ece=Share(0.02, 0.01, 0.04),
    # coverage 0.50: 0.3, ... 0.90: 0.5, ... 0.95: 0.525
    quantiles={key: 0.3 + 0.005 * n for n, key in enumerate(COVERAGES[: MAX_PERCENT - 49])},
    sets=(CoverageResult(0.9, Share(0.91, 0.85, 0.95), 1.2),),
    familiarity=FAMILIARITY,
)


def write_trusted(path: Path, trust: Trust | None = TRUST) -> Path:
    """Write a model of three classes; its name is the file's and its version is 1.

    With the means r, g and b of the crop's channels, 0 to 1, `probabilities` are
    softmax(SHARPNESS * (r, g, b)), and `unfamiliarity` is (r + g + b) / 3, if `trust.familiarity` is there.
    """
    nodes = [
        helper.make_node("Cast", ["images"], ["pixels"], to=TensorProto.FLOAT),
        helper.make_node("Transpose", ["pixels"], ["channels"], perm=[0, 3, 1, 2]),
        helper.make_node("AveragePool", ["channels"], ["means"], kernel_shape=[224, 224]),
        helper.make_node("Flatten", ["means"], ["rgb"]),  # (N, 3)
        helper.make_node("Gemm", ["rgb", "sharpness"], ["logits"]),
        helper.make_node("Softmax", ["logits"], ["probabilities"], axis=1),
        helper.make_node("Gemm", ["rgb", "thirds"], ["column"]),  # (N, 1)
        helper.make_node("Reshape", ["column", "rows"], [UNFAMILIARITY]),
    ]
    stored = {
        "sharpness": np.eye(3, dtype=np.float32) * np.float32(SHARPNESS / 255),
        "thirds": np.full((3, 1), BRIGHTNESS / 3 / 255, np.float32),
        "rows": np.array([-1], np.int64),
    }
    if trust is None or trust.familiarity is None:
        del nodes[6:], stored["thirds"], stored["rows"]
    write_model(path, CLASSES, nodes, stored)
    model = onnx.load(path)
    (entry,) = (entry for entry in model.metadata_props if entry.key == METADATA_KEY)
    manifest = Manifest.from_json(entry.value)
    if "thirds" in stored:
        model.graph.output.append(helper.make_tensor_value_info(UNFAMILIARITY, TensorProto.FLOAT, ["N"]))
        output = Tensor(UNFAMILIARITY, "float32", (None,), "mean brightness")
        manifest = replace(manifest, outputs=(*manifest.outputs, output), trust=trust)
    else:
        manifest = replace(manifest, trust=trust)
    entry.value = manifest.to_json()
    onnx.save(model, path)
    return path
