"""Measure the layers of the paper's network in PyTorch, as a limit for benchmarks.gpu.

    python -m benchmarks.gpu.torch_limits >LIMITS

Prints a JSON line per precision and batch as soon as it is measured: images/s from uint8 images to logits,
both on the GPU, as one CUDA graph, with the channels last and cuDNN's choice among its algorithms. The
normalisations are left out, because torch has no fast ones.
"""

import json
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from statistics import median
from typing import Any, Final

import torch
from torch import Tensor, nn

from benchmarks.gpu.limits import kind_of
from benchmarks.gpu.networks import CLASSES
from training.model import AlexNet, layer_table

BATCHES: Final = (256, 32, 8, 1)
RUNS: Final = 5
PASSES: Final = 20  # in a run: a single one can take less time than the clock's call and the launch


def measure(
    device: str, width: float, batches: Sequence[int], passes: int = PASSES
) -> Iterator[dict[str, Any]]:
    """Yield the rows, fp16 first; on a CPU without a graph."""
    network = AlexNet(CLASSES, width, "kaiming").eval()
    multiply_adds = sum(layer.multiply_adds for layer in layer_table(network))
    network.norm1 = network.norm2 = nn.Identity()
    network.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    for precision, tf32 in (("fp16", False), ("fp32", True), ("fp32", False)):
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = tf32
        network.to(torch.float16 if precision == "fp16" else torch.float32)
        for batch in batches:
            yield {
                "multiply_adds": multiply_adds,
                "precision": kind_of(precision, tf32),
                "batch": batch,
                "images_per_s": batch / seconds(network, batch, device, passes),
            }


@torch.inference_mode()
def seconds(network: AlexNet, batch: int, device: str, passes: int) -> float:
    """Return the seconds of a pass: the median run's."""
    images = torch.randint(0, 256, (batch, 224, 224, 3), dtype=torch.uint8, device=device)
    kind = network.conv1.weight.dtype

    def forward() -> Tensor:
        logits: Tensor = network(images.permute(0, 3, 1, 2).to(kind) - 118)
        return logits

    run = capture(forward) if device == "cuda" else forward
    times = []
    for _run in range(RUNS):
        start = time.perf_counter()
        for _pass in range(passes):
            run()
        if device == "cuda":
            torch.cuda.synchronize()
        times.append((time.perf_counter() - start) / passes)
    return median(times)


def capture(forward: Callable[[], Tensor]) -> Callable[[], object]:
    """Record a pass in a CUDA graph; return a function that replays it."""
    stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    with torch.cuda.stream(stream):
        for _warm_up in range(3):
            forward()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        forward()
    replay: Callable[[], object] = graph.replay
    return replay


def main() -> int:
    if not torch.cuda.is_available():
        print("error: torch finds no GPU", file=sys.stderr)
        return 1
    torch.backends.cudnn.benchmark = True
    for row in measure("cuda", 1.0, BATCHES):
        print(json.dumps(row), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
