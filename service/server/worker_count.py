"""Choose the number of worker processes for WORKERS=auto, and list the GPUs that they share."""

import os
import re
from itertools import takewhile
from pathlib import Path
from typing import Final

from contract.limits import ROOT, usable_cores, usable_memory
from service.imaging.decode import BYTES_PER_PIXEL
from service.parsers import AUTO
from service.settings import Settings

# One process is limited by its interpreter: on 16 cores and an H200, 1, 2, 4 and 8 of them had 574, 1,152,
# 1,574 and 1,774 images/s (docs/gpu.md). On two cores, a second one gains nothing (docs/performance.md).
CORES_PER_WORKER: Final = 2
PROCESS_BYTES: Final = 300_000_000  # interpreter, libraries and a small network
DECODER_BYTES: Final = 200_000_000  # the same of a decoding process, which has no network
CUDA_BYTES: Final = 1_500_000_000  # an allowance for CUDA's libraries; never measured


def choose_workers(settings: Settings, root: Path = ROOT) -> tuple[Settings, str]:
    """Replace WORKERS=auto by a number; also return "8 workers for 16 cores" for the ready line.

    It is half the number of cores, but no more than fit into memory when all of them reach their limits,
    and at least one for each GPU.
    """
    if settings.workers != AUTO:
        return settings, _counted(settings.workers, "worker") if settings.workers > 1 else ""
    gpus = [] if settings.device == "cpu" else visible_gpus(root)
    cores, memory = usable_cores(root), usable_memory(root)
    count, reason = cores // CORES_PER_WORKER, _counted(cores, "core")
    fitting = memory / worker_bytes(settings, on_gpu=bool(gpus))
    if fitting < count:
        count, reason = int(fitting), f"{memory / 1e9:.1f} GB of memory"
    if len(gpus) > count:
        count, reason = len(gpus), _counted(len(gpus), "GPU")
    count = max(1, count)
    return settings.model_copy(update={"workers": count}), f"{_counted(count, 'worker')} for {reason}"


def worker_bytes(settings: Settings, on_gpu: bool) -> int:
    """Return the memory of a worker that reaches all of its limits, with a small network."""
    decoding = settings.max_pixels * BYTES_PER_PIXEL
    if settings.decode_processes:
        decoding = (decoding + DECODER_BYTES) * settings.decode_processes
    return PROCESS_BYTES + settings.max_queue_bytes + decoding + (CUDA_BYTES if on_gpu else 0)


def visible_gpus(root: Path = ROOT) -> list[str]:
    """Return the GPUs that this process may use, as CUDA_VISIBLE_DEVICES names them.

    Like CUDA, it ignores what comes after the first entry that is no GPU, such as -1.
    """
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        names = (name.strip() for name in visible.split(","))
        return list(takewhile(re.compile(r"\d+|(GPU|MIG)-.+").fullmatch, names))
    # A container has the device files of its own GPUs, but may see all of the host's in /proc. On a host,
    # the device files may be missing until CUDA is first used.
    files = list(root.glob("dev/nvidia[0-9]*")) or list(root.glob("proc/driver/nvidia/gpus/*"))
    return [str(number) for number in range(len(files))]


def _counted(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
