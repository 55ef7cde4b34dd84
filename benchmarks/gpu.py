"""Measure how fast model files run on this machine's GPU by batch size, and compare with its limit.

    python -m benchmarks.gpu FILE...        the report that scripts/gpu-check prints
    python -m benchmarks.gpu --write DIR    untrained networks of the paper's shape to measure (needs torch)

The figures are those of the service: `Model.run`, from crops in memory to probabilities in memory. The
limit of a batch is the sum over the layers of the larger of two times: its multiply-adds at the rate of a
large matrix product on the same GPU in the file's precision, and its weights at the GPU's memory bandwidth.
It does not include normalisation, pooling and copies.
"""

import argparse
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
from onnx import TensorProto, helper

from contract.manifest import METADATA_KEY, Manifest, Tensor
from contract.recipe import DEFAULT_RECIPE
from service.errors import ModelError
from service.models import cuda
from service.models import onnx_file as onnxfile
from service.models.cuda import GpuOptions
from service.models.cuda_session import GpuSession
from service.models.session import Model, load_model

SIDE = 8192  # rows and columns of the matrices
NUMBERS = 1 << 27  # float32 numbers that are read and written to measure bandwidth
# How many times each kernel of a layer is applied; a fully connected layer is applied once.
POSITIONS = {"conv1": 55**2, "conv2": 27**2, "conv3": 13**2, "conv4": 13**2, "conv5": 13**2}
BYTES = {"fp32": 4, "fp16": 2, "int8": 4}  # on a GPU, int8 weights are converted to float32


@dataclass(frozen=True)
class Layer:
    """The weights and the work of one layer."""

    name: str
    weights: int
    multiply_adds: int  # per image


def layers(data: bytes) -> list[Layer]:
    """Return the layers of one of our model files, from the shapes of its weights."""
    result = []
    for name, tensor in onnxfile.read(data).initializers.items():
        layer = name.split(".")[0]
        if name in {f"{layer}.weight", f"{layer}.weight.int8"}:
            count = int(np.prod(tensor.shape))
            result.append(Layer(layer, count, count * POSITIONS.get(layer, 1)))
    return result


def peak(kind: int, gpu: GpuOptions, side: int, runtime: Any) -> float:
    """Return the multiply-adds per second of a square matrix product, the best of ten."""
    names, dtype = ("a", "b", "c"), helper.tensor_dtype_to_np_dtype(kind)
    a, b, c = (helper.make_tensor_value_info(name, kind, [side, side]) for name in names)
    graph = helper.make_graph([helper.make_node("MatMul", ["a", "b"], ["c"])], "peak", [a, b], [c])
    return float(side**3 / _best(graph, {name: [side, side] for name in names}, dtype, gpu, runtime))


def bandwidth(gpu: GpuOptions, count: int, runtime: Any) -> float:
    """Return the bytes per second that are read and written, the best of ten."""
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [count]) for name in ("x", "y"))
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "read", [x], [y])
    return 8 * count / _best(graph, {"x": [count], "y": [count]}, np.float32, gpu, runtime)


def _best(graph: Any, shapes: dict[str, list[int]], dtype: Any, gpu: GpuOptions, runtime: Any) -> float:
    """Return the least seconds of a run whose inputs and outputs stay on the GPU."""
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    session = cuda.open_session(
        model.SerializeToString(), ort.SessionOptions(), gpu.provider("fp32"), runtime
    )
    binding = session.io_binding()
    outputs = {output.name for output in session.get_outputs()}
    values = {}
    for name, shape in shapes.items():
        values[name] = runtime.OrtValue.ortvalue_from_shape_and_type(shape, dtype, "cuda", 0)
        if name in outputs:
            binding.bind_ortvalue_output(name, values[name])
        else:
            values[name].update_inplace(np.zeros(shape, dtype))
            binding.bind_ortvalue_input(name, values[name])
    return min(_timed(lambda: session.run_with_iobinding(binding)) for _run in range(11))


def _timed(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def images_per_s(model: Model, batch: int, seconds: float) -> float:
    """Return images/s of the median run."""
    crops = [np.random.default_rng(0).integers(0, 256, (batch, 224, 224, 3), np.uint8)]
    model.run(crops)
    times: list[float] = []
    end = time.perf_counter() + seconds
    while not times or time.perf_counter() < end:
        times.append(_timed(lambda: model.run(crops)))
    return batch / statistics.median(times)


def report(files: list[Path], gpu: GpuOptions, seconds: float, side: int, count: int, runtime: Any) -> str:
    """Measure the files and return the report as text. Raises ModelError and NoGpu."""
    read = bandwidth(gpu, count, runtime)
    lines = [f"memory {read / 1e9:.0f} GB/s read and written"]
    rates: dict[tuple[str, bool], float] = {}
    pinned = False
    for name, number, tf32 in (
        ("fp32", TensorProto.FLOAT, False),
        ("fp32", TensorProto.FLOAT, True),
        ("fp16", TensorProto.FLOAT16, False),
    ):
        rates[name, tf32] = rate = peak(number, replace(gpu, tf32=tf32), side, runtime)
        lines.append(
            f"{name}{' with TF32' if tf32 else ''}: {rate / 1e12:.1f} 10^12 multiply-adds/s at most"
        )
    lines += ["", "| file | precision | batch | images/s | share of the limit |", "|---|---|---|---|---|"]
    for file in files:
        file_layers = layers(file.read_bytes())
        for tf32 in (False, True):
            model = load_model(file, "cuda", 1, replace(gpu, tf32=tf32), runtime)
            precision = model.manifest.precision
            if tf32 and precision == "fp16":
                continue
            assert isinstance(model.session, GpuSession)
            rate = rates["fp16", False] if precision == "fp16" else rates["fp32", tf32]
            for size in model.session.sizes:
                measured = images_per_s(model, size, seconds)
                limit = sum(
                    max(size * layer.multiply_adds / rate, layer.weights * BYTES[precision] / read)
                    for layer in file_layers
                )
                kind = precision + (", TF32" if tf32 else "")
                lines.append(
                    f"| {file.name} | {kind} | {size} | {measured:.0f} | {measured * limit / size:.2f} |"
                )
            pinned = model.session.pinned
    lines += ["", f"the images' memory was {'' if pinned else 'not '}page-locked"]
    return "\n".join(lines)


def machine(runtime: Any) -> str:
    """Describe the GPU, its driver, the versions, and the processor."""
    query = ["nvidia-smi", "--query-gpu=name,driver_version,memory.total", "--format=csv,noheader"]
    cards = subprocess.run(query, capture_output=True, text=True, check=True).stdout.strip()
    versions = f"ONNX Runtime {runtime.__version__}, CUDA {runtime.cuda_version}"
    return f"{cards}\n{versions}, Python {platform.python_version()}, {platform.machine()}"


def write(folder: Path) -> None:
    """Write fp32.onnx and fp16.onnx, untrained: the speed does not depend on the weights."""
    import torch

    from training.export.graph import OPSET, build_graph
    from training.model import AlexNet

    torch.manual_seed(0)
    network, classes = AlexNet(1000, 1.0, "kaiming"), tuple(f"class {n}" for n in range(1000))
    for precision in ("fp32", "fp16"):
        manifest = Manifest(
            name=precision,
            version=1,
            architecture={"name": "alexnet", "variant": "paper", "width": 1.0},
            classes=classes,
            recipe=DEFAULT_RECIPE,
            mean=(123.0, 117.0, 104.0),
            std=(1.0, 1.0, 1.0),
            opset=OPSET,
            precision=precision,
            inputs=(Tensor("images", "uint8", (None, 224, 224, 3), "pixels"),),
            outputs=(Tensor("probabilities", "float32", (None, 1000), "of an untrained network"),),
        )
        graph = build_graph(network, manifest.mean, manifest.std, precision)
        graph.metadata_props.add(key=METADATA_KEY, value=manifest.to_json())
        (folder / f"{precision}.onnx").write_bytes(graph.SerializeToString())


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("files", type=Path, nargs="*", help="model files (default: the shipped one)")
    parser.add_argument("--write", type=Path, metavar="DIR", help="only write networks to measure")
    parser.add_argument("--max-batch", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=2.0, help="per batch size (default 2)")
    args = parser.parse_args()
    if args.write:
        write(args.write)
        return 0
    files = args.files or [Path(__file__).parents[1] / "models" / "flowers17.onnx"]
    gpu = GpuOptions(args.max_batch)
    try:
        text = report(files, gpu, args.seconds, SIDE, NUMBERS, ort)
        print(f"{machine(ort)}\n{text}")
    except (ModelError, cuda.NoGpu) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
