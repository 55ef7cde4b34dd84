"""Run batches on a GPU as CUDA graphs: one launch a batch, and no plans when the batch size changes.

cuDNN plans a convolution anew whenever its input has another shape, which takes longer than a small batch.
A CUDA graph is the recorded launches of one batch size, at fixed addresses, with the plans that they had.
So a batch is padded to one of a few sizes, and a graph of each is captured before the model is served.
"""

import weakref
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from queue import SimpleQueue
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from service.device_crops import Crops, DeviceCrops
from service.errors import WorkerLost, short_message
from service.models.cuda import ON_DEVICE, TO_DEVICE, TO_HOST, Cudart, load_libraries
from service.observability.logs import log

GPU_WORKERS: Final = 2  # batches in progress: one runs while the next is copied to the GPU
_NO_GRAPH: Final = "-1"

# A graph, like streams and cuDNN's handles, belongs to the thread that captured it. So one thread of the
# process warms and runs all sessions. Threads that copy, open or free them call `allow_captures` before.
OWNER: Final = ThreadPoolExecutor(1, "cuda")


def bucket_sizes(max_batch: int) -> list[int]:
    """List the powers of two below `max_batch`, and `max_batch` itself."""
    return [1 << power for power in range((max_batch - 1).bit_length())] + [max_batch]


class _Slot:
    """The memory of one batch, on the host and on the GPU, and by bucket size what runs its CUDA graph.

    `rows` has the shape of an image's row for each output of the graph.
    """

    def __init__(
        self,
        number: int,
        session: Any,
        sizes: Sequence[int],
        side: int,
        rows: Mapping[str, Sequence[int]],
        runtime: Any,
        cudart: Cudart,
    ) -> None:
        count = sizes[-1]
        self.cudart = cudart
        self.staging, self.pinned = self.cudart.allocate_host((count, side, side, 3))
        allocate = runtime.OrtValue.ortvalue_from_shape_and_type
        self.images = allocate([count, side, side, 3], np.uint8, "cuda", 0)
        self.outputs = {name: allocate([count, *row], np.float32, "cuda", 0) for name, row in rows.items()}
        self.graphs: dict[int, tuple[Any, Any]] = {}
        for index, size in enumerate(sizes):
            binding, options = self.bind_images(session, size), runtime.RunOptions()
            for name, row in rows.items():
                address = self.outputs[name].data_ptr()
                binding.bind_output(name, "cuda", 0, np.float32, [size, *row], address)
            options.add_run_config_entry("gpu_graph_id", str(number * len(sizes) + index + 1))
            self.graphs[size] = binding, options

    def bind_images(self, session: Any, size: int) -> Any:
        binding = session.io_binding()
        shape = [size, *self.staging.shape[1:]]
        binding.bind_input("images", "cuda", 0, np.uint8, shape, self.images.data_ptr())
        return binding

    def write(self, parts: Sequence[Crops]) -> int:
        """Copy the images to their memory on the GPU, and return how many there are."""
        count, on_device = 0, list[tuple[int, DeviceCrops]]()
        for part in parts:
            if isinstance(part, DeviceCrops):
                on_device.append((count, part))
            else:
                self.staging[count : count + len(part)] = part
            count += len(part)
        images, staged = self.images.data_ptr(), self.staging[:count]
        if len(on_device) < len(parts):
            self.cudart.copy(images, staged.ctypes.data, staged.nbytes, TO_DEVICE)
        for first, crops in on_device:
            address = images + self.staging[:first].nbytes
            self.cudart.copy(address, crops.address, crops.nbytes, ON_DEVICE)
        if on_device or not self.pinned:  # these copies may not have ended yet
            self.cudart.synchronize()
        return count

    def read(self, name: str, count: int) -> NDArray[np.float32]:
        """Copy the output `name` of `count` images from the GPU."""
        memory = self.outputs[name]
        values = np.empty((count, *memory.shape()[1:]), np.float32)
        self.cudart.copy(values.ctypes.data, memory.data_ptr(), values.nbytes, TO_HOST)
        return values


class GpuSession:
    """Open a session of ONNX Runtime on a GPU, and run it; several threads may call `run`.

    A calling thread copies its images to the GPU and the results back, in one of GPU_WORKERS slots, while
    the batch of another one runs. `graph_outputs` are computed by the CUDA graphs. `pinned`: whether the
    host memory of the slots is page-locked.
    """

    def __init__(
        self,
        open_session: Callable[[], Any],
        open_library: Callable[[Any], Any],
        graph_outputs: Sequence[str],
        side: int,
        max_batch: int,
        runtime: Any,
    ) -> None:
        self.sizes = bucket_sizes(max_batch)
        load_libraries(runtime)
        self._cudart = cudart = Cudart(open_library(runtime))
        cudart.allow_captures()  # of models that run already
        self._session = session = open_session()
        # The thread that drops this frees the session next.
        weakref.finalize(self, cudart.allow_captures).atexit = False
        self._outputs = {output.name: output.shape for output in session.get_outputs()}
        self._graph_outputs = set(graph_outputs)
        rows = {name: self._outputs[name][1:] for name in graph_outputs}
        self._no_graph = runtime.RunOptions()
        self._no_graph.add_run_config_entry("gpu_graph_id", _NO_GRAPH)
        self._slots: SimpleQueue[_Slot] = SimpleQueue()
        self.pinned = True
        for number in range(GPU_WORKERS):
            slot = _Slot(number, session, self.sizes, side, rows, runtime, cudart)
            self.pinned = self.pinned and slot.pinned
            if number == 0:  # the largest batch allocates most of the memory
                OWNER.submit(self._run_features, slot, self.sizes[-1], list(self._outputs)).result()
            for size in reversed(self.sizes):  # one by one, so that batches of other models run between
                OWNER.submit(session.run_with_iobinding, *slot.graphs[size]).result()
            self._slots.put(slot)

    @property
    def memory_used(self) -> int:
        """Bytes of the GPU's memory that all processes use."""
        return self._cudart.memory_used()

    def run(self, outputs: Sequence[str], parts: Sequence[Crops]) -> list[NDArray[np.float32]]:
        """Run images (N, side, side, 3) uint8, at most `sizes[-1]`; return a row of each output for each.

        Raises WorkerLost. With other outputs than `graph_outputs`, the batch runs without a CUDA graph.
        """
        if unknown := set(outputs) - set(self._outputs):  # ONNX Runtime would only fail when it runs
            raise ValueError(f"the network has no output {', '.join(sorted(unknown))}")
        slot = self._slots.get()
        try:
            count = slot.write(parts)
            size = next(size for size in self.sizes if size >= count)
            if self._graph_outputs.issuperset(outputs):
                OWNER.submit(self._session.run_with_iobinding, *slot.graphs[size]).result()
                return [slot.read(name, count) for name in outputs]
            rows = OWNER.submit(self._run_features, slot, size, outputs).result()
            return [values[:count] for values in rows]
        except Exception as error:
            # After most CUDA errors nothing runs in this process any more, and they cannot be told apart
            # reliably.
            log.error("the GPU failed: %s", short_message(error))
            raise WorkerLost("the GPU failed; the server needs a restart") from error
        finally:
            self._slots.put(slot)

    def _run_features(self, slot: _Slot, size: int, outputs: Sequence[str]) -> list[NDArray[np.float32]]:
        """Run a batch without a graph, because the requested outputs vary and can be large."""
        binding = slot.bind_images(self._session, size)
        for name in outputs:
            binding.bind_output(name)  # allocated when the session runs
        self._session.run_with_iobinding(binding, self._no_graph)
        rows: list[NDArray[np.float32]] = binding.copy_outputs_to_cpu()
        return rows
