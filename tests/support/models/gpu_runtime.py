"""A fake of the module onnxruntime on a machine with a GPU, for machines without one.

Its CUDA sessions are CPU sessions. Bindings, copies and results are real; only the device's name is
replaced. What ONNX Runtime's own CUDA provider does is tested in tests/cuda_api.
"""

import ctypes
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnxruntime as ort

from contract.preprocess import Pixels
from service.models.cuda import DEFAULTS, PROVIDER, GpuOptions
from service.models.session import CPU, Model, load_model

FAILURE = (
    "[ONNXRuntimeError] : 1 : FAIL : /onnxruntime_src/onnxruntime/core/providers/cuda/cuda_call.cc:154 "
    "std::conditional_t<THRW, void, common::Status> onnxruntime::CudaCall(...) CUDA failure 700: an "
    "illegal memory access was encountered ; GPU=0 ; hostname=secret ; file=x.cc"
)
OUTPUTS = ("probabilities", "fc7", "conv5")


def images(count: int, seed: int = 0) -> Pixels:
    return np.random.default_rng(seed).integers(0, 256, (count, 224, 224, 3), np.uint8)


class Binding:
    """A fake onnxruntime.IOBinding; `images` views the bound input."""

    def __init__(self, session: "Session") -> None:
        self._session, self.real = session, session.real.io_binding()
        self.images = np.zeros(0, np.uint8)

    def bind_input(
        self, name: str, device: str, number: int, dtype: Any, shape: list[int], address: int
    ) -> None:
        assert (device, number) == ("cuda", 0)
        self.real.bind_input(name, "cpu", 0, dtype, shape, address)
        if name == "images":
            pointer = ctypes.cast(address, ctypes.POINTER(ctypes.c_uint8))
            self.images = np.ctypeslib.as_array(pointer, tuple(shape))

    def bind_output(self, name: str, device: str = "cpu", *memory: Any) -> None:
        assert device == ("cuda" if memory else "cpu")
        self.real.bind_output(name, "cpu", *memory)
        self._session.bound.append(name)

    def copy_outputs_to_cpu(self) -> Any:
        return self.real.copy_outputs_to_cpu()


class Session:
    """A fake onnxruntime.InferenceSession.

    `ran` has the batches, `graphs` the ids of their CUDA graphs, `bound` the outputs that were bound.
    """

    def __init__(self, gpu: "Runtime", data: bytes, options: Any, providers: Any, **rest: Any) -> None:
        self._gpu, self.provider = gpu, providers[0]
        assert self.provider == CPU or rest == {"enable_fallback": 0}, (
            "ONNX Runtime would fall back to the CPU"
        )
        if gpu.broken == "session" and self.provider != CPU:
            raise RuntimeError(FAILURE)
        self.real = ort.InferenceSession(data, options, providers=[CPU])
        self.ran: list[Pixels] = []
        self.graphs: list[str] = []
        self.bound: list[str] = []
        gpu.sessions.append(self)

    def get_providers(self) -> list[str]:
        return [CPU] if self.provider == CPU or self._gpu.broken == "silently" else [PROVIDER, CPU]

    def get_outputs(self) -> Any:
        return self.real.get_outputs()

    def run(self, *arguments: Any) -> Any:
        assert self.provider == CPU, "a CUDA session runs by its bindings only"
        return self.real.run(*arguments)

    def io_binding(self) -> Binding:
        return Binding(self)

    def run_with_iobinding(self, binding: Binding, options: Any) -> None:
        if self._gpu.broken == "run":
            raise RuntimeError(FAILURE)
        self.ran.append(binding.images.copy())
        self.graphs.append(options.get_run_config_entry("gpu_graph_id"))
        self.real.run_with_iobinding(binding.real)


class Runtime(SimpleNamespace):
    """A fake module onnxruntime with a GPU; `broken` names the part that does not work.

    `inputs` are the OrtValues that were allocated on the GPU.
    """

    def __init__(self, broken: str = "") -> None:
        self.broken = broken
        self.sessions: list[Session] = []
        self.inputs: list[ort.OrtValue] = []
        self.OrtValue = SimpleNamespace(ortvalue_from_shape_and_type=self._allocate)
        self.RunOptions = ort.RunOptions
        self.cudart = Cudart()

    def InferenceSession(self, *arguments: Any, **options: Any) -> Session:  # noqa: N802
        return Session(self, *arguments, **options)

    def get_available_providers(self) -> list[str]:
        return [CPU] if self.broken == "wheel" else [PROVIDER, CPU]

    def set_default_logger_severity(self, severity: int) -> None:
        assert severity == 3

    def preload_dlls(self) -> None:
        if self.broken == "libraries":
            print("Failed to load libcublas.so.13")

    def _allocate(self, shape: list[int], kind: Any, device: str, number: int) -> Any:
        assert (device, number) == ("cuda", 0)
        value = ort.OrtValue.ortvalue_from_shape_and_type(shape, kind)
        if kind == np.uint8:
            self.inputs.append(value)
        return value


class Cudart:
    """A fake CUDA runtime library; `locked` has the bytes of page-locked memory by address."""

    def __init__(self, status: int = 0) -> None:
        self.status = status
        self.last_error = 0
        self.locked: dict[int, int] = {}

    def cudaHostRegister(self, address: Any, length: Any, flags: Any) -> int:  # noqa: N802
        if self.status == 0:
            self.locked[address.value] = length.value
        self.last_error = self.status
        return self.status

    def cudaHostUnregister(self, address: Any) -> int:  # noqa: N802
        del self.locked[address.value]
        return 0

    def cudaMemcpy(self, target: Any, source: Any, size: Any, kind: Any) -> int:  # noqa: N802
        if self.status == 0:
            ctypes.memmove(target, source, size.value)
        return self.status

    def cudaStreamSynchronize(self, stream: Any) -> int:  # noqa: N802
        assert stream.value is None, "the default stream"
        return self.status

    def cudaThreadExchangeStreamCaptureMode(self, mode: Any) -> int:  # noqa: N802
        assert mode._obj.value == 2
        return 0

    def cudaGetLastError(self) -> int:  # noqa: N802
        error, self.last_error = self.last_error, 0
        return error

    def cudaMemGetInfo(self, free: Any, total: Any) -> int:  # noqa: N802
        if self.status == 0:
            free._obj.value, total._obj.value = 30, 80_000_000_000
        return self.status


def load_on_gpu(path: Path, runtime: Runtime, gpu: GpuOptions = DEFAULTS, device: str = "cuda") -> Model:
    return load_model(path, device, 1, gpu, runtime, open_library=lambda _runtime: runtime.cudart)
