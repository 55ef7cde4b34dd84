"""ONNX Runtime on an NVIDIA GPU: how a session is opened there, and how a batch gets through it.

cuDNN chooses its algorithms anew for every shape that it meets, so a batch is padded to one of a few sizes,
each of which has run before anybody is served. A batch crosses the bus once, from page-locked memory to
addresses that stay the same, and only the outputs that are asked for come back.
"""

import contextlib
import ctypes
import io
import threading
import weakref
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue
from typing import Any, Final, Self

import numpy as np
from numpy.typing import NDArray

from contract.preprocess import Pixels
from service.errors import WorkerLost
from service.observability.logs import log
from service.settings import Settings

PROVIDER: Final = "CUDAExecutionProvider"

LANES: Final = 2  # batches under way: one runs, one is on its way to the GPU

Outputs = list[NDArray[np.float32]]


class NoGpu(RuntimeError):
    """No session could be made on a GPU; the message goes on after "but"."""


@dataclass(frozen=True)
class GpuOptions:
    """Batches are of `max_batch` images at most; `memory_bytes` limits ONNX Runtime's arena, 0 does not.
    What the others mean is said in the settings.
    """

    max_batch: int = 32
    search: str = "heuristic"
    max_workspace: bool = True
    tf32: bool = False
    memory_bytes: int = 0

    @classmethod
    def of(cls, settings: Settings) -> Self:
        return cls(
            settings.max_batch,
            settings.cudnn_search,
            settings.cudnn_max_workspace,
            settings.tf32,
            settings.gpu_memory_bytes,
        )

    def provider(self) -> tuple[str, dict[str, str]]:
        """As ONNX Runtime takes it. The GPU is the first that CUDA_VISIBLE_DEVICES leaves."""
        options = {
            "device_id": "0",
            "cudnn_conv_algo_search": self.search.upper(),
            "cudnn_conv_use_max_workspace": str(int(self.max_workspace)),
            "use_tf32": str(int(self.tf32)),
            # The shapes are few and come back: doubling at every growth would only leave memory unused.
            "arena_extend_strategy": "kSameAsRequested",
        }
        if self.memory_bytes:
            options["gpu_mem_limit"] = str(self.memory_bytes)
        return PROVIDER, options


DEFAULTS: Final = GpuOptions()


def open_session(data: bytes, options: Any, gpu: GpuOptions, runtime: Any) -> Any:
    """`runtime` is the module onnxruntime, `options` its SessionOptions. Raises NoGpu; what the session
    itself uses is asked, because providers that cannot be loaded are passed over in silence.
    """
    if PROVIDER not in runtime.get_available_providers():
        raise NoGpu("this ONNX Runtime has no CUDA provider (the extra `gpu` has; it takes x86-64)")
    with contextlib.redirect_stdout(io.StringIO()) as said:
        runtime.preload_dlls()  # CUDA and cuDNN from their wheels
    for line in said.getvalue().splitlines():
        log.warning("CUDA's libraries: %s", line)
    runtime.set_default_logger_severity(3)  # errors, such as a library that is missing
    try:
        # Without its own fallback: it would go on with the CPU and say so on stdout at most.
        session = runtime.InferenceSession(data, options, providers=[gpu.provider()], enable_fallback=0)
    except Exception as error:  # ORT's exceptions share no base class of their own
        raise NoGpu(f"no CUDA session could be made: {first_line(error)}") from error
    if session.get_providers()[0] != PROVIDER:
        raise NoGpu("no CUDA session could be made (is there an NVIDIA GPU with a driver of 580 or newer?)")
    return session


def has_gpu(root: Path = Path("/")) -> bool:
    """Look for a device of the NVIDIA driver: in /dev, or in WSL, where Windows' driver is."""
    return any(root.glob("dev/nvidia[0-9]*")) or (root / "usr/lib/wsl/lib/libcuda.so.1").exists()


def bucket_sizes(most: int) -> list[int]:
    """1, 2, 4 ... and `most` itself."""
    return [1 << power for power in range((most - 1).bit_length())] + [most]


@dataclass(frozen=True)
class _Slot:
    """Where a batch is assembled, and by the size of a bucket where the session takes it from."""

    staging: Pixels
    inputs: dict[int, Any]


class Buckets:
    """Stands in for a session: `run` pads a batch to the next bucket. Threads may call it side by side: one
    batch runs at a time, and as it does the next is assembled and copied, in one of LANES slots.

    `device` is where the inputs lie, cuda or cpu.
    """

    def __init__(self, session: Any, side: int, most: int, runtime: Any, device: str = "cuda") -> None:
        self.sizes = bucket_sizes(most)
        self._session = session
        self._outputs = {output.name for output in session.get_outputs()}
        self._running = threading.Lock()
        self._slots: SimpleQueue[_Slot] = SimpleQueue()
        self.pinned = device == "cuda"
        allocate = runtime.OrtValue.ortvalue_from_shape_and_type
        for _slot in range(LANES):
            staging = np.zeros((most, side, side, 3), np.uint8)
            self.pinned = self.pinned and pin(staging, cuda_library(runtime))
            inputs = {size: allocate([size, side, side, 3], np.uint8, device, 0) for size in self.sizes}
            self._slots.put(_Slot(staging, inputs))

    def run(self, outputs: Sequence[str], feed: Mapping[str, Pixels]) -> Outputs:
        """`feed["images"]` (N, side, side, 3) uint8 -> each output's N rows. More images than the largest
        bucket run one bucket after the other. Raises WorkerLost.
        """
        if unknown := set(outputs) - self._outputs:  # ONNX Runtime would only find out as it runs
            raise ValueError(f"the network has no output {', '.join(sorted(unknown))}")
        images, most = feed["images"], self.sizes[-1]
        if len(images) > most:
            parts = [self._run(outputs, images[at : at + most]) for at in range(0, len(images), most)]
            return [np.concatenate(rows) for rows in zip(*parts, strict=True)]
        return self._run(outputs, images)

    def _run(self, outputs: Sequence[str], images: Pixels) -> Outputs:
        slot = self._slots.get()
        try:
            return self._run_in(slot, outputs, images)
        finally:
            self._slots.put(slot)

    def _run_in(self, slot: _Slot, outputs: Sequence[str], images: Pixels) -> Outputs:
        count = len(images)
        size = next(size for size in self.sizes if size >= count)
        batch, taken = slot.staging[:size], slot.inputs[size]
        batch[:count] = images
        batch[count:] = 0  # nothing of an earlier request is run again
        binding = self._session.io_binding()
        binding.bind_ortvalue_input("images", taken)
        for name in outputs:
            binding.bind_output(name)  # to the CPU's memory, once it is there
        try:
            taken.update_inplace(batch)
            with self._running:
                self._session.run_with_iobinding(binding)
            found = binding.copy_outputs_to_cpu()
        except Exception as error:
            # After most of CUDA's errors nothing runs in this process any more, and which one it was is
            # not told apart reliably.
            log.error("the GPU failed: %s", first_line(error))
            raise WorkerLost("the GPU failed; the server needs a restart") from error
        return [rows[:count] for rows in found]


def pin(memory: NDArray[Any], cudart: Any) -> bool:
    """Page-locks memory for as long as it is in use, so that the GPU copies from it by itself; without,
    the driver copies it once more. -> whether CUDA did.
    """
    address, length = ctypes.c_void_p(memory.ctypes.data), ctypes.c_size_t(memory.nbytes)
    if cudart is None or cudart.cudaHostRegister(address, length, ctypes.c_uint(0)) != 0:
        return False
    weakref.finalize(memory, cudart.cudaHostUnregister, address).atexit = False
    return True


def memory_used(cudart: Any) -> int | None:
    """Bytes of the GPU's memory that are taken, by whomever; None where CUDA does not say."""
    free, total = ctypes.c_size_t(), ctypes.c_size_t()
    if cudart is None or cudart.cudaMemGetInfo(ctypes.byref(free), ctypes.byref(total)) != 0:
        return None
    return total.value - free.value


def cuda_library(runtime: Any) -> Any:
    """CUDA's own runtime library, which a session has loaded; None where there is none."""
    try:
        return ctypes.CDLL(f"libcudart.so.{str(runtime.cuda_version).split('.')[0]}")
    except (OSError, AttributeError):
        return None


def first_line(error: BaseException) -> str:
    """Of an ORT exception, without what CUDA adds: the host's name and its sources."""
    return (str(error).splitlines() or [type(error).__name__])[0].split(" ; GPU=")[0][:300]
