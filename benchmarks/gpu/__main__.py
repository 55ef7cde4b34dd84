"""Measure how fast model files run on this machine's GPU by batch size, and compare with its limits.

    python -m benchmarks.gpu FILE...                the report that scripts/gpu-check prints
    python -m benchmarks.gpu.networks FOLDER        writes untrained networks to measure (needs torch)
    python -m benchmarks.gpu.torch_limits >LIMITS   measures their layers in PyTorch, for --torch LIMITS

The columns in images/s: "network alone", whose images and probabilities stay on the GPU; and `Model.run`,
from crops in memory to probabilities there, by one thread, by as many as the service has, and by one thread
where each batch comes after one of another size. The limit is the sum over the layers of the larger of two
times: the multiply-adds at the rate of a large matrix product on the same GPU in the same precision, and
the weights at the GPU's memory bandwidth. It does not include normalisation and pooling.

Every row is printed as soon as it is measured.
"""

import argparse
import json
import platform
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any, Final

import numpy as np
import onnxruntime as ort

from benchmarks.gpu.limits import MEMORY, kind_of, layers, measure_card, min_seconds
from benchmarks.gpu.rates import images_per_s, images_per_s_after, random_crops
from benchmarks.gpu.resident import Resident
from service.errors import ModelError, WorkerLost
from service.models import onnx_file
from service.models.cuda import GpuOptions, NoGpu
from service.models.cuda_session import GPU_WORKERS, GpuSession
from service.models.session import Model, load_model

HEADS: Final = (
    *("file", "precision", "batch", "network alone", "of the limit", "of PyTorch's"),
    *("Model.run, 1 thread", f"{GPU_WORKERS} threads", "after another size"),
)
TorchLimits = Mapping[tuple[int, str, int], float]  # images/s by multiply-adds per image, precision, batch
Load = Callable[[Path, GpuOptions], Model]


def load_on_gpu(file: Path, gpu: GpuOptions) -> Model:
    return load_model(file, "cuda", 1, gpu)


def report(
    files: Sequence[Path],
    card: Iterable[tuple[str, float]],
    torch: TorchLimits,
    max_batch: int,
    seconds: float,
    runtime: Any = ort,
    load: Load = load_on_gpu,
) -> Iterator[str]:
    """Yield the lines of the report, the rates of `card` first.

    Raises ModelError, NoGpu, and WorkerLost if the GPU fails.
    """
    rates: dict[str, float] = {}
    for name, rate in card:
        rates[name] = rate
        what = f"{rate / 1e9:.0f} GB/s" if name == MEMORY else f"{rate / 1e12:.1f} 10^12 multiply-adds/s"
        yield f"{name}: {what}"
    yield "\n" + _row(*HEADS) + "\n|" + "---|" * len(HEADS)
    for file in files:
        for tf32 in (False, True):
            gpu = GpuOptions(max_batch, tf32)
            model = load(file, gpu)
            yield from rows(file, model, gpu, rates, torch, seconds, runtime)
            if model.manifest.precision == "fp16":  # which uses tensor cores anyway
                break


def rows(
    file: Path,
    model: Model,
    gpu: GpuOptions,
    rates: Mapping[str, float],
    torch: TorchLimits,
    seconds: float,
    runtime: Any,
) -> Iterator[str]:
    """Yield a row per batch size of a model, the largest first."""
    data, precision = file.read_bytes(), model.manifest.precision
    computed = kind_of("fp32" if precision == "int8" else precision, gpu.tf32)
    network = layers(onnx_file.read(data))
    multiply_adds = sum(layer.multiply_adds for layer in network)
    alone = Resident(data, precision, gpu, runtime)
    assert isinstance(model.session, GpuSession)
    if not model.session.pinned:
        yield f"host memory for {file.name} is not page-locked"
    sizes = model.session.sizes
    shape = [len(model.manifest.classes)]
    for size, other in reversed([*zip(sizes, [sizes[-1], *sizes], strict=False)]):
        images = {"images": np.concatenate(random_crops(size))}
        times = alone.times(images, "probabilities", [size, *shape], np.float32, seconds)
        rate = size / median(times)
        least = min_seconds(network, precision, size, rates[computed], rates[MEMORY])
        theirs = torch.get((multiply_adds, computed, size))
        yield _row(
            file.name,
            kind_of(precision, gpu.tf32),
            size,
            f"{rate:.0f}",
            f"{rate * least / size:.2f}",
            f"{rate / theirs:.2f}" if theirs else "",
            *(f"{images_per_s(model, size, threads, seconds):.0f}" for threads in (1, GPU_WORKERS)),
            f"{images_per_s_after(model, size, other, seconds):.0f}",
        )


def _row(*cells: object) -> str:
    return f"| {' | '.join(map(str, cells))} |"


def read_torch_limits(text: str) -> TorchLimits:
    """Read what benchmarks.gpu.torch_limits has printed."""
    rows = map(json.loads, text.splitlines())
    return {(row["multiply_adds"], row["precision"], row["batch"]): row["images_per_s"] for row in rows}


def describe_machine(runtime: Any) -> str:
    """Describe the GPU, its driver, the versions, and the processor."""
    query = ["nvidia-smi", "--query-gpu=name,driver_version,memory.total", "--format=csv,noheader"]
    try:
        cards = subprocess.run(query, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError) as error:
        cards = f"unknown GPU ({error})"
    versions = f"ONNX Runtime {runtime.__version__}, CUDA {runtime.cuda_version}"
    return f"{cards}\n{versions}, Python {platform.python_version()}, {platform.machine()}"


def print_lines(lines: Iterable[str]) -> int:
    """Print each line as soon as it comes; return the exit code."""
    try:
        for line in lines:
            print(line, flush=True)
    except (ModelError, NoGpu, WorkerLost) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description=__doc__.split("\n")[0])
    parser.add_argument("files", type=Path, nargs="*", help="model files (default: the included one)")
    parser.add_argument("--max-batch", type=int, default=256)
    parser.add_argument("--seconds", type=float, default=1.0, help="per figure (default 1)")
    parser.add_argument("--torch", type=Path, metavar="LIMITS", help="what torch_limits has printed")
    args = parser.parse_args()
    files = args.files or [Path(__file__).parents[2] / "models" / "flowers17.onnx"]
    torch = read_torch_limits(args.torch.read_text()) if args.torch else {}
    print(describe_machine(ort), flush=True)
    return print_lines(report(files, measure_card(ort), torch, args.max_batch, args.seconds))


if __name__ == "__main__":
    sys.exit(main())
