"""Time a session of ONNX Runtime on a GPU whose input and output stay there, as a CUDA graph."""

import time
from collections.abc import Mapping
from typing import Any

import onnxruntime as ort
from numpy.typing import NDArray

from service.models.cuda import GpuOptions, open_session

MIN_RUNS = 3


class Resident:
    """Open a session with the options of the service. Raises NoGpu."""

    def __init__(self, data: bytes, precision: str, gpu: GpuOptions, runtime: Any) -> None:
        self._session = open_session(data, ort.SessionOptions(), gpu.provider(precision), runtime)
        self._runtime = runtime
        self._graphs = 0

    def times(
        self,
        inputs: Mapping[str, NDArray[Any]],
        output: str,
        shape: list[int],
        dtype: Any,
        seconds: float,
    ) -> list[float]:
        """Capture a graph for these inputs; return the seconds of its runs."""
        binding, allocate = self._session.io_binding(), self._runtime.OrtValue.ortvalue_from_shape_and_type
        values = []  # what the graph reads and writes
        for name, array in inputs.items():
            values.append(value := allocate(list(array.shape), array.dtype.type, "cuda", 0))
            value.update_inplace(array)
            address = value.data_ptr()
            binding.bind_input(name, "cuda", 0, array.dtype.type, list(array.shape), address)
        values.append(value := allocate(shape, dtype, "cuda", 0))
        binding.bind_output(output, "cuda", 0, dtype, shape, value.data_ptr())
        options = self._runtime.RunOptions()
        self._graphs += 1
        options.add_run_config_entry("gpu_graph_id", str(self._graphs))
        self._session.run_with_iobinding(binding, options)
        times: list[float] = []
        end = time.perf_counter() + seconds
        while len(times) < MIN_RUNS or time.perf_counter() < end:
            start = time.perf_counter()
            self._session.run_with_iobinding(binding, options)
            times.append(time.perf_counter() - start)
        return times
