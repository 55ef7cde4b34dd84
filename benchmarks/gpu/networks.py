"""Write fp32.onnx and fp16.onnx, untrained: the speed does not depend on the weights. Needs torch.

python -m benchmarks.gpu.networks FOLDER
"""

import argparse
from pathlib import Path
from typing import Final

import torch

from contract.manifest import METADATA_KEY, Manifest, Tensor
from contract.recipe import DEFAULT_RECIPE
from training.export.graph import OPSET, build_graph
from training.model import AlexNet

CLASSES: Final = 1000


def write(folder: Path, width: float = 1.0) -> None:
    """Write the two files; width 1 is the paper's."""
    torch.manual_seed(0)
    network = AlexNet(CLASSES, width, "kaiming")
    for precision in ("fp32", "fp16"):
        manifest = Manifest(
            name=precision,
            version=1,
            architecture={"name": "alexnet", "variant": "paper", "width": width},
            classes=tuple(f"class {number}" for number in range(CLASSES)),
            recipe=DEFAULT_RECIPE,
            mean=(123.0, 117.0, 104.0),
            std=(1.0, 1.0, 1.0),
            opset=OPSET,
            precision=precision,
            inputs=(Tensor("images", "uint8", (None, 224, 224, 3), "pixels"),),
            outputs=(Tensor("probabilities", "float32", (None, CLASSES), "of an untrained network"),),
        )
        graph = build_graph(network, manifest.mean, manifest.std, precision)
        graph.metadata_props.add(key=METADATA_KEY, value=manifest.to_json())
        (folder / f"{precision}.onnx").write_bytes(graph.SerializeToString())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("folder", type=Path)
    write(parser.parse_args().folder)


if __name__ == "__main__":
    main()
