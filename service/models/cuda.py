"""Open ONNX Runtime sessions on an NVIDIA GPU and run padded batches in them.

cuDNN chooses its algorithms anew for every shape, so a batch is padded to one of a few sizes, each of which
has run before the model is served. A batch is copied to the GPU once, from page-locked memory to fixed
addresses, and only the requested outputs are copied back.
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

GPU_WORKERS: Final = 2  # batches in progress: one runs while the next is copied to the GPU

Outputs = list[NDArray[np.float32]]


class NoGpu(RuntimeError):
    """No session could be opened on a GPU; the message continues a sentence after "but"."""


@dataclass(frozen=True)
class GpuOptions:
    """Options of a GPU session, as in the settings MAX_BATCH, CUDNN_SEARCH and so on.

    Batches have at most `max_batch` images. `memory_bytes` limits ONNX Runtime's arena; 0 is no limit.
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
        """Build ONNX Runtime's provider entry, for the first GPU of CUDA_VISIBLE_DEVICES."""
        options = {
            "device_id": "0",
            "cudnn_conv_algo_search": self.search.upper(),
            "cudnn_conv_use_max_workspace": str(int(self.max_workspace)),
            "use_tf32": str(int(self.tf32)),
            # The shapes are few and recur: doubling the arena at every growth would only waste memory.
            "arena_extend_strategy": "kSameAsRequested",
        }
        if self.memory_bytes:
            options["gpu_mem_limit"] = str(self.memory_bytes)
        return PROVIDER, options


DEFAULTS: Final = GpuOptions()


def open_session(data: bytes, options: Any, gpu: GpuOptions, runtime: Any) -> Any:
    """Open a session on the GPU. Raises NoGpu.

    `runtime` is the module onnxruntime, `options` its SessionOptions. ONNX Runtime skips providers that it
    cannot load without an error, so the session's actual provider is checked.
    """
    if PROVIDER not in runtime.get_available_providers():
        raise NoGpu("this ONNX Runtime has no CUDA provider (the extra `gpu` has; it takes x86-64)")
    with contextlib.redirect_stdout(io.StringIO()) as output:
        runtime.preload_dlls()  # CUDA and cuDNN from their wheels
    for line in output.getvalue().splitlines():
        log.warning("CUDA's libraries: %s", line)
    runtime.set_default_logger_severity(3)  # errors, such as a missing library
    try:
        # Without ONNX Runtime's fallback, which would use the CPU and only print that.
        session = runtime.InferenceSession(data, options, providers=[gpu.provider()], enable_fallback=0)
    except Exception as error:  # ORT's exceptions share no base class of their own
        raise NoGpu(f"no CUDA session could be opened: {first_line(error)}") from error
    if session.get_providers()[0] != PROVIDER:
        raise NoGpu(
            "no CUDA session could be opened (is there an NVIDIA GPU with a driver of 580 or newer?)"
        )
    return session


def has_gpu(root: Path = Path("/")) -> bool:
    """Whether there is a device of the NVIDIA driver: in /dev, or in WSL, which has Windows' driver."""
    return any(root.glob("dev/nvidia[0-9]*")) or (root / "usr/lib/wsl/lib/libcuda.so.1").exists()


def bucket_sizes(max_batch: int) -> list[int]:
    """List the powers of two below `max_batch`, and `max_batch` itself."""
    return [1 << power for power in range((max_batch - 1).bit_length())] + [max_batch]


@dataclass(frozen=True)
class _Slot:
    """The memory where a batch is assembled, and the session's inputs by bucket size."""

    staging: Pixels
    inputs: dict[int, Any]


class Buckets:
    """Take the place of a session: `run` pads a batch to the next bucket size.

    Several threads may call it: one batch runs at a time, and meanwhile the next one is assembled and
    copied, in one of GPU_WORKERS slots. `device` is where the inputs are stored, "cuda" or "cpu".
    """

    def __init__(self, session: Any, side: int, max_batch: int, runtime: Any, device: str = "cuda") -> None:
        self.sizes = bucket_sizes(max_batch)
        self._session = session
        self._outputs = {output.name for output in session.get_outputs()}
        self._running = threading.Lock()
        self._slots: SimpleQueue[_Slot] = SimpleQueue()
        self.pinned = device == "cuda"
        allocate = runtime.OrtValue.ortvalue_from_shape_and_type
        for _slot in range(GPU_WORKERS):
            staging = np.zeros((max_batch, side, side, 3), np.uint8)
            self.pinned = self.pinned and pin(staging, cuda_library(runtime))
            inputs = {size: allocate([size, side, side, 3], np.uint8, device, 0) for size in self.sizes}
            self._slots.put(_Slot(staging, inputs))

    def run(self, outputs: Sequence[str], feed: Mapping[str, Pixels]) -> Outputs:
        """Run `feed["images"]` (N, side, side, 3) uint8 and return the N rows of each output.

        More images than the largest bucket run as several batches. Raises WorkerLost.
        """
        if unknown := set(outputs) - self._outputs:  # ONNX Runtime would only fail when it runs
            raise ValueError(f"the network has no output {', '.join(sorted(unknown))}")
        images, step = feed["images"], self.sizes[-1]
        if len(images) > step:
            parts = [self._run(outputs, images[at : at + step]) for at in range(0, len(images), step)]
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
        batch, device_input = slot.staging[:size], slot.inputs[size]
        batch[:count] = images
        batch[count:] = 0  # do not run rows of an earlier request again
        binding = self._session.io_binding()
        binding.bind_ortvalue_input("images", device_input)
        for name in outputs:
            binding.bind_output(name)  # allocated when the session runs; copied to the CPU below
        try:
            device_input.update_inplace(batch)
            with self._running:
                self._session.run_with_iobinding(binding)
            values = binding.copy_outputs_to_cpu()
        except Exception as error:
            # After most CUDA errors nothing runs in this process any more, and they cannot be told apart
            # reliably.
            log.error("the GPU failed: %s", first_line(error))
            raise WorkerLost("the GPU failed; the server needs a restart") from error
        return [rows[:count] for rows in values]


def pin(memory: NDArray[Any], cudart: Any) -> bool:
    """Page-lock memory while it is in use; return whether CUDA did it.

    The GPU copies from page-locked memory directly; from other memory the driver first makes a copy.
    """
    address, length = ctypes.c_void_p(memory.ctypes.data), ctypes.c_size_t(memory.nbytes)
    if cudart is None or cudart.cudaHostRegister(address, length, ctypes.c_uint(0)) != 0:
        return False
    weakref.finalize(memory, cudart.cudaHostUnregister, address).atexit = False
    return True


def memory_used(cudart: Any) -> int | None:
    """Return how many bytes of the GPU's memory all processes use; None if CUDA does not answer."""
    free, total = ctypes.c_size_t(), ctypes.c_size_t()
    if cudart is None or cudart.cudaMemGetInfo(ctypes.byref(free), ctypes.byref(total)) != 0:
        return None
    return total.value - free.value


def cuda_library(runtime: Any) -> Any:
    """Open CUDA's runtime library, which a session has loaded; None if there is none."""
    try:
        return ctypes.CDLL(f"libcudart.so.{str(runtime.cuda_version).split('.')[0]}")
    except (OSError, AttributeError):
        return None


def first_line(error: BaseException) -> str:
    """Return the first line of an ORT exception without CUDA's additions: host name and source files."""
    return (str(error).splitlines() or [type(error).__name__])[0].split(" ; GPU=")[0][:300]
