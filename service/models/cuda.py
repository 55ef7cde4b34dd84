"""Open ONNX Runtime sessions on an NVIDIA GPU, and call CUDA's runtime library directly."""

import contextlib
import ctypes
import io
import mmap
import weakref
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Self

import numpy as np
from numpy.typing import NDArray

from service.errors import short_message
from service.observability.logs import log
from service.settings import Settings

PROVIDER: Final = "CUDAExecutionProvider"
# Values of cudaMemcpyKind and cudaStreamCaptureMode in CUDA's driver_types.h.
TO_DEVICE: Final = 1
TO_HOST: Final = 2
ON_DEVICE: Final = 3
_CAPTURE_MODE_RELAXED: Final = 2


class NoGpu(RuntimeError):
    """No session could be opened on a GPU; the message continues a sentence after "but"."""


@dataclass(frozen=True)
class GpuOptions:
    """Options of a GPU session, as in the settings MAX_BATCH, TF32 and GPU_MEMORY_BYTES.

    Batches have at most `max_batch` images. `memory_bytes` limits ONNX Runtime's arena; 0 is no limit.
    """

    max_batch: int = 32
    tf32: bool = False
    memory_bytes: int = 0

    @classmethod
    def of(cls, settings: Settings) -> Self:
        return cls(settings.max_batch, settings.tf32, settings.gpu_memory_bytes)

    def provider(self, precision: str) -> tuple[str, dict[str, str]]:
        """Build ONNX Runtime's provider entry, for the first GPU of CUDA_VISIBLE_DEVICES.

        `precision` is the model file's.
        """
        options = {
            "device_id": "0",
            "cudnn_conv_algo_search": "HEURISTIC",  # EXHAUSTIVE gained nothing on an H200
            # Without it, ONNX Runtime forbids tensor cores to convolutions of any precision.
            "use_tf32": str(int(self.tf32 or precision == "fp16")),
            "enable_cuda_graph": "1",
            # The shapes are few and recur: doubling the arena at every growth would only waste memory.
            "arena_extend_strategy": "kSameAsRequested",
        }
        if self.memory_bytes:
            options["gpu_mem_limit"] = str(self.memory_bytes)
        return PROVIDER, options


DEFAULTS: Final = GpuOptions()


def load_libraries(runtime: Any) -> None:
    """Load CUDA and cuDNN from their wheels, if installed. Raises NoGpu without a CUDA provider."""
    if PROVIDER not in runtime.get_available_providers():
        raise NoGpu("this ONNX Runtime has no CUDA provider (the extra `gpu` has; it takes x86-64)")
    with contextlib.redirect_stdout(io.StringIO()) as output:
        runtime.preload_dlls()
    for line in output.getvalue().splitlines():
        log.warning("CUDA's libraries: %s", line)


def open_session(data: bytes, options: Any, provider: tuple[str, dict[str, str]], runtime: Any) -> Any:
    """Open a session on the GPU. Raises NoGpu.

    `runtime` is the module onnxruntime, `options` its SessionOptions. ONNX Runtime skips providers that it
    cannot load without an error, so the session's actual provider is checked.
    """
    load_libraries(runtime)
    # Convert int8 weights to float32 once, when the file is loaded, and do not round activations: the
    # provider has no kernel for int8 biases, and would convert all weights for every batch.
    options.add_session_config_entry("session.disable_quant_qdq", "1")
    options.add_session_config_entry("session.enable_quant_qdq_cleanup", "1")
    runtime.set_default_logger_severity(3)  # errors, such as a missing library
    try:
        # Without ONNX Runtime's fallback, which would use the CPU and only print that.
        session = runtime.InferenceSession(data, options, providers=[provider], enable_fallback=0)
    except Exception as error:  # ORT's exceptions share no base class of their own
        raise NoGpu(f"no CUDA session could be opened: {short_message(error)}") from error
    if session.get_providers()[0] != PROVIDER:
        raise NoGpu(
            "no CUDA session could be opened (is there an NVIDIA GPU with a driver of 580 or newer?)"
        )
    return session


def has_gpu(root: Path = Path("/")) -> bool:
    """Whether there is a device of the NVIDIA driver: in /dev, or in WSL, which has Windows' driver."""
    return any(root.glob("dev/nvidia[0-9]*")) or (root / "usr/lib/wsl/lib/libcuda.so.1").exists()


class Cudart:
    """Call CUDA's runtime library, which a session has loaded, without holding the interpreter.

    `library` is what `open_library` returns.
    """

    def __init__(self, library: Any) -> None:
        self._library = library

    def allow_captures(self) -> None:
        """Let other threads capture CUDA graphs while this one calls CUDA.

        In the default mode its next call would fail, and spoil the capture.
        """
        mode = ctypes.c_int(_CAPTURE_MODE_RELAXED)
        self._library.cudaThreadExchangeStreamCaptureMode(ctypes.byref(mode))

    def copy(self, target: int, source: int, size: int, kind: int) -> None:
        """Copy `size` bytes between two addresses. Raises RuntimeError.

        It waits for a copy to the host, and for one from page-locked memory; `synchronize` for others.
        """
        self.allow_captures()
        arguments = ctypes.c_void_p(target), ctypes.c_void_p(source), ctypes.c_size_t(size)
        if status := self._library.cudaMemcpy(*arguments, ctypes.c_int(kind)):
            raise RuntimeError(f"CUDA failure {status}: cudaMemcpy of {size} bytes")

    def synchronize(self) -> None:
        """Wait for the default stream, for which ONNX Runtime's streams do not. Raises RuntimeError."""
        if status := self._library.cudaStreamSynchronize(ctypes.c_void_p(0)):
            raise RuntimeError(f"CUDA failure {status}: cudaStreamSynchronize")

    def allocate_host(self, shape: tuple[int, ...]) -> tuple[NDArray[np.uint8], bool]:
        """Allocate an array in host memory; return it, and whether its memory is page-locked.

        The GPU copies from page-locked memory directly; from other memory the driver first makes a copy.
        """
        memory = np.frombuffer(mmap.mmap(-1, int(np.prod(shape))), np.uint8).reshape(shape)
        address = ctypes.c_void_p(memory.ctypes.data)
        if self._library.cudaHostRegister(address, ctypes.c_size_t(memory.nbytes), ctypes.c_uint(0)):
            self._library.cudaGetLastError()  # else ONNX Runtime's next kernel would report it
            log.warning("host memory cannot be page-locked; copies to the GPU take longer")
            return memory, False
        weakref.finalize(memory.base, self._library.cudaHostUnregister, address).atexit = False
        return memory, True

    def memory_used(self) -> int:
        """Return how many bytes of the GPU's memory all processes use; 0 if CUDA does not answer."""
        self.allow_captures()
        free, total = ctypes.c_size_t(), ctypes.c_size_t()
        self._library.cudaMemGetInfo(ctypes.byref(free), ctypes.byref(total))
        return total.value - free.value


def open_library(runtime: Any) -> Any:
    """Open CUDA's runtime library, which a session has loaded. Raises NoGpu."""
    try:
        return ctypes.CDLL(f"libcudart.so.{str(runtime.cuda_version).split('.')[0]}")
    except (OSError, AttributeError) as error:
        raise NoGpu(f"CUDA's runtime library cannot be opened: {error}") from None
