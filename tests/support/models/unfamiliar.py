"""Model files that compute the unfamiliarity of an image, from random weights and neighbours.

    python -m tests.support.models.unfamiliar FOLDER

writes one for each precision, for tests/cuda_api, which run without torch.
"""

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import onnx
import torch

from contract.manifest import METADATA_KEY, Manifest
from tests.support.manifests import MANIFEST, TRUSTED
from tests.support.models.graphs import add_part, rounding_of_all
from training.export.graph import PRECISIONS, Rounding, build_graph
from training.model import AlexNet


def small_network(width: float = 0.05) -> AlexNet:
    """Make a network of MANIFEST's classes whose answers differ from image to image."""
    torch.manual_seed(1)
    return AlexNet(len(MANIFEST.classes), width, "kaiming")


def unfamiliar_graph(network: AlexNet, precision: str, **part: Any) -> onnx.ModelProto:
    """Build the graph with its part for the unfamiliarity; in int8 every layer computes in integers."""
    rounding = rounding_of_all(network) if precision == "int8" else Rounding()
    model = build_graph(network, MANIFEST.mean, MANIFEST.std, precision, rounding)
    return add_part(model, precision, **part)


def write_unfamiliar(
    path: Path, model: onnx.ModelProto, precision: str = "fp32", manifest: Manifest = TRUSTED
) -> Path:
    """Write a model file with this manifest, which declares the output `unfamiliarity`."""
    manifest = replace(manifest, precision=precision)
    del model.metadata_props[:]
    model.metadata_props.add(key=METADATA_KEY, value=manifest.to_json())
    onnx.save(model, path)
    return path


if __name__ == "__main__":
    for precision in PRECISIONS:
        file = Path(sys.argv[1]) / f"unfamiliar-{precision}.onnx"
        write_unfamiliar(file, unfamiliar_graph(small_network(0.25), precision), precision)
