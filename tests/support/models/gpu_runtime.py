"""A fake of the module onnxruntime on a machine with a GPU, for machines without one.

Its CUDA sessions are CPU sessions. Bindings, copies and results are real; only the device's name is
replaced.
"""

from types import SimpleNamespace
from typing import Any

import numpy as np
import onnxruntime as ort

from contract.preprocess import Pixels
from service.models.cuda import PROVIDER
from service.models.session import CPU

FAILURE = "CUDA failure 700: an illegal memory access was encountered ; GPU=0 ; hostname=secret ; file=x.cc"
OUTPUTS = ("probabilities", "fc7", "conv5")


def images(count: int, seed: int = 0) -> Pixels:
    return np.random.default_rng(seed).integers(0, 256, (count, 224, 224, 3), np.uint8)


class Session:
    """A fake onnxruntime.InferenceSession; `ran` has the batches, `bound` the requested outputs."""

    def __init__(self, gpu: "Runtime", data: bytes, options: Any, providers: Any, **rest: Any) -> None:
        self._gpu, self.provider = gpu, providers[0]
        assert self.provider == CPU or rest == {"enable_fallback": 0}, (
            "ONNX Runtime would fall back to the CPU"
        )
        if gpu.broken == "session" and self.provider != CPU:
            raise RuntimeError(FAILURE)
        self._real = ort.InferenceSession(data, options, providers=[CPU])
        self.ran: list[Pixels] = []
        self.bound: list[str] = []
        gpu.sessions.append(self)

    def get_providers(self) -> list[str]:
        return [CPU] if self.provider == CPU or self._gpu.broken == "silently" else [PROVIDER, CPU]

    def get_outputs(self) -> Any:
        return self._real.get_outputs()

    def run(self, *arguments: Any) -> Any:
        assert self.provider == CPU, "a CUDA session runs by its bindings only"
        return self._real.run(*arguments)

    def io_binding(self) -> Any:
        real = self._real.io_binding()
        self.bound = []

        def bind_ortvalue_input(name: str, value: Any) -> None:
            real.bind_ortvalue_input(name, value)
            binding.device_input = value

        def bind_output(name: str) -> None:
            real.bind_output(name)
            self.bound.append(name)

        binding = SimpleNamespace(
            real=real,
            device_input=None,
            bind_ortvalue_input=bind_ortvalue_input,
            bind_output=bind_output,
            bind_ortvalue_output=real.bind_ortvalue_output,
            copy_outputs_to_cpu=real.copy_outputs_to_cpu,
        )
        return binding

    def run_with_iobinding(self, binding: Any) -> None:
        if self._gpu.broken == "run":
            raise RuntimeError(FAILURE)
        self.ran.append(binding.device_input.numpy())
        self._real.run_with_iobinding(binding.real)


class Runtime(SimpleNamespace):
    """A fake module onnxruntime with a GPU; `broken` names the part that does not work."""

    def __init__(self, broken: str = "") -> None:
        self.broken = broken
        self.sessions: list[Session] = []
        self.inputs: list[ort.OrtValue] = []
        self.cuda_version = "13.0"
        self.OrtValue = SimpleNamespace(ortvalue_from_shape_and_type=self._allocate)

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
        self.inputs.append(ort.OrtValue.ortvalue_from_shape_and_type(shape, kind))
        return self.inputs[-1]


class Cudart:
    """A fake CUDA runtime library; `locked` has the bytes of page-locked memory by address."""

    def __init__(self, status: int = 0) -> None:
        self.status = status
        self.locked: dict[int, int] = {}

    def cudaHostRegister(self, address: Any, length: Any, flags: Any) -> int:  # noqa: N802
        if self.status == 0:
            self.locked[address.value] = length.value
        return self.status

    def cudaHostUnregister(self, address: Any) -> int:  # noqa: N802
        del self.locked[address.value]
        return 0

    def cudaMemGetInfo(self, free: Any, total: Any) -> int:  # noqa: N802
        free._obj.value, total._obj.value = 30, 80_000_000_000
        return self.status
