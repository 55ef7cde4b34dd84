"""Tests of the GPU code on machines without a GPU; those that need one are in tests/gpu."""

import gc
import threading
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch

from contract.manifest import METADATA_KEY
from contract.preprocess import Pixels
from service.device_crops import Crops, DeviceCrops
from service.models.cuda import PROVIDER, Cudart, GpuOptions
from service.models.cuda_session import GPU_WORKERS, GpuSession, bucket_sizes
from service.models.session import load_model
from service.settings import Settings
from tests.support.eventually import eventually
from tests.support.models import gpu_runtime
from tests.support.models.gpu_runtime import OUTPUTS, Runtime, images, load_on_gpu
from training.export.graph import build_graph
from training.model import AlexNet


def in_parts(batch: Pixels) -> list[Pixels]:
    """Cut a batch into parts of 1, 2, 3 ... images."""
    parts, at = list[Pixels](), 0
    while at < len(batch):
        parts.append(batch[at : at + len(parts) + 1])
        at += len(parts)
    return parts


@pytest.mark.parametrize(
    ("max_batch", "sizes"),
    [(1, [1]), (2, [1, 2]), (3, [1, 2, 3]), (8, [1, 2, 4, 8]), (48, [1, 2, 4, 8, 16, 32, 48])],
)
def test_buckets_are_powers_of_two_and_the_largest_batch(max_batch: int, sizes: list[int]) -> None:
    assert bucket_sizes(max_batch) == sizes


@pytest.mark.parametrize("count", [1, 2, 3, 5, 6])
def test_outputs_are_those_of_the_cpu(model_file: Path, count: int) -> None:
    """The second batch must not see rows of the first."""
    on_gpu, on_cpu = load_on_gpu(model_file, Runtime(), GpuOptions(6)), load_model(model_file, "cpu", 1)
    for seed in range(2):
        batch = images(count, seed)
        for outputs in (OUTPUTS, OUTPUTS[:1], OUTPUTS[::-1]):
            results, expected = on_gpu.run(in_parts(batch), outputs), on_cpu.run([batch], outputs)
            assert list(results) == list(outputs)
            for name, values in expected.items():
                np.testing.assert_allclose(results[name], values, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("places", [[0], [1], [0, 2], [0, 1, 2]])
def test_crops_on_the_gpu_take_their_places_in_a_batch(model_file: Path, places: list[int]) -> None:
    runtime = Runtime()
    model = load_on_gpu(model_file, runtime, GpuOptions(6))
    parts: list[Crops] = [*in_parts(images(6, 1))]
    for place in places:
        memory = ort.OrtValue.ortvalue_from_numpy(np.concatenate([images(1, 9), np.asarray(parts[place])]))
        parts[place] = DeviceCrops(memory, 0, memory.shape()[0], ThreadPoolExecutor(1))[1:]
    model.run(parts)
    assert np.array_equal(runtime.sessions[0].ran[-1][:6], images(6, 1))


def test_next_batch_is_copied_while_one_runs(model_file: Path) -> None:
    """The second batch runs when the first has ended."""
    runtime = Runtime()
    model = load_on_gpu(model_file, runtime, GpuOptions(2))
    (session,) = runtime.sessions
    first, second = images(1, 1), images(2, 2)
    entered, released, real = threading.Event(), threading.Event(), session.run_with_iobinding

    def gated(binding: Any, options: Any) -> None:
        entered.set()
        assert released.wait(10)
        real(binding, options)

    session.run_with_iobinding = gated  # type: ignore[method-assign]
    session.ran.clear()
    with ThreadPoolExecutor(2) as threads:
        running = threads.submit(model.run, [first])
        assert entered.wait(10)
        waiting = threads.submit(model.run, [second])
        eventually(lambda: any(np.array_equal(value.numpy(), second) for value in runtime.inputs))
        assert not waiting.done()
        assert session.ran == []
        released.set()
        results = [running.result(10), waiting.result(10)]
    assert [len(batch) for batch in session.ran] == [1, 2]
    for batch, outputs in zip((first, second), results, strict=True):
        expected = load_model(model_file, "cpu", 1).run([batch])
        np.testing.assert_allclose(
            outputs["probabilities"], expected["probabilities"], rtol=1e-4, atol=1e-6
        )


def test_one_thread_warms_and_runs_every_model(model_file: Path) -> None:
    used: set[str] = set()

    class Watched(Runtime):
        def InferenceSession(self, *arguments: Any, **options: Any) -> Any:  # noqa: N802
            session = super().InferenceSession(*arguments, **options)
            real = session.run_with_iobinding

            def run(binding: Any, options: Any) -> None:
                used.add(threading.current_thread().name)
                real(binding, options)

            session.run_with_iobinding = run  # type: ignore[method-assign]
            return session

    for _model in range(2):
        model = load_on_gpu(model_file, Watched(), GpuOptions(2))
        with ThreadPoolExecutor(3) as threads:
            list(threads.map(partial(model.run, [images(1)]), [OUTPUTS, OUTPUTS[:1]] * 3))
    assert len(used) == 1


def test_model_runs_while_another_one_is_opened(model_file: Path) -> None:
    opening, opened = threading.Event(), threading.Event()

    class Slow(Runtime):
        def InferenceSession(self, *arguments: Any, **options: Any) -> Any:  # noqa: N802
            opening.set()
            assert opened.wait(10)
            return super().InferenceSession(*arguments, **options)

    model = load_on_gpu(model_file, Runtime(), GpuOptions(1))
    with ThreadPoolExecutor(1) as threads:
        loading = threads.submit(load_on_gpu, model_file, Slow(), GpuOptions(1))
        assert opening.wait(10)
        assert len(model.run([images(1)])["probabilities"]) == 1
        assert not loading.done()
        opened.set()
        assert loading.result().provider == PROVIDER


def test_outputs_outlive_the_next_batch(model_file: Path) -> None:
    model = load_on_gpu(model_file, Runtime(), GpuOptions(2))
    for outputs in (OUTPUTS, OUTPUTS[:1]):
        first = model.run([images(2, 0)], outputs)
        copies = {name: values.copy() for name, values in first.items()}
        for seed in range(1, 4):
            model.run([images(2, seed)], outputs)
        for name, values in first.items():
            np.testing.assert_array_equal(values, copies[name])


def test_every_slot_and_batch_size_has_a_graph_of_its_own(model_file: Path) -> None:
    runtime = Runtime()
    model = load_on_gpu(model_file, runtime, GpuOptions(6))
    (session,) = runtime.sessions
    assert (model.provider, model.target_batch_size) == (PROVIDER, 1)
    # Before the model is served: the features once, every graph of both slots, and a blank image.
    sizes = [6, *([6, 4, 2, 1] * GPU_WORKERS), 1]
    assert [len(batch) for batch in session.ran] == sizes
    features, *graphs, _blank = session.graphs
    assert (features, len(set(graphs)), "-1" in graphs) == ("-1", len(graphs), False)

    session.ran.clear()
    session.graphs.clear()
    for count in (5, 1, 3, 6, 5, 1):  # the slots take turns
        model.run([images(count)])
    assert [len(batch) for batch in session.ran] == [6, 1, 4, 6, 6, 1]
    assert set(session.graphs) <= set(graphs)
    assert session.graphs[0] == session.graphs[4] != session.graphs[3]
    model.run([images(5)], ["fc7", "probabilities"])
    assert (session.graphs[-1], len(session.ran[-1])) == ("-1", 6)


def test_session_options(model_file: Path) -> None:
    runtime = Runtime()
    model = load_on_gpu(model_file, runtime, GpuOptions(1, tf32=True, memory_bytes=10**9))
    (session,) = runtime.sessions
    assert session.provider == (
        PROVIDER,
        {
            "device_id": "0",
            "cudnn_conv_algo_search": "HEURISTIC",
            "use_tf32": "1",
            "enable_cuda_graph": "1",
            "arena_extend_strategy": "kSameAsRequested",
            "gpu_mem_limit": "1000000000",
        },
    )
    assert model.gpu_memory_used == 80_000_000_000 - 30
    options = session.real.get_session_options()
    for entry in ("session.disable_quant_qdq", "session.enable_quant_qdq_cleanup"):
        assert options.get_session_config_entry(entry) == "1"
    assert options.intra_op_num_threads == 1


def test_settings_reach_the_provider() -> None:
    assert GpuOptions.of(Settings()) == GpuOptions()
    settings = Settings.from_environ({"MAX_BATCH": "5", "TF32": "1", "GPU_MEMORY_BYTES": "7"})
    assert GpuOptions.of(settings) == GpuOptions(5, True, 7)


@pytest.mark.parametrize(("precision", "tf32"), [("fp32", "0"), ("int8", "0"), ("fp16", "1")])
def test_tensor_cores_are_allowed_by_default_for_fp16_only(precision: str, tf32: str) -> None:
    _name, options = GpuOptions().provider(precision)
    assert options["use_tf32"] == tf32
    assert "gpu_mem_limit" not in options


def test_fp16_model_takes_uint8_and_returns_float32(model_file: Path, tmp_path: Path) -> None:
    """A model in fp16 has the same inputs and outputs as every other file."""
    torch.manual_seed(0)
    graph = build_graph(AlexNet(7, 0.05, "kaiming"), [120.0] * 3, [1.0] * 3, "fp16")
    entry = next(e for e in onnx.load(model_file).metadata_props if e.key == METADATA_KEY)
    graph.metadata_props.append(entry)
    path = tmp_path / "half.onnx"
    onnx.save(graph, path)
    outputs = load_on_gpu(path, Runtime(), GpuOptions(2)).run([images(1)], OUTPUTS)
    assert {values.dtype.name for values in outputs.values()} == {"float32"}
    assert outputs["probabilities"].sum() == pytest.approx(1, abs=1e-3)


def test_host_memory_is_page_locked_while_a_view_of_it_is_in_use() -> None:
    library = gpu_runtime.Cudart()
    memory, pinned = Cudart(library).allocate_host((100, 10))
    assert (memory.shape, pinned) == ((100, 10), True)
    assert library.locked == {memory.ctypes.data: 1000}
    part = memory[:10]
    del memory
    assert len(library.locked) == 1
    del part
    assert library.locked == {}


def test_memory_of_a_model_is_unlocked_with_it(model_file: Path) -> None:
    runtime = Runtime()
    model = load_on_gpu(model_file, runtime, GpuOptions(3))
    assert isinstance(model.session, GpuSession)
    assert model.session.pinned
    assert list(runtime.cudart.locked.values()) == [3 * 224 * 224 * 3] * GPU_WORKERS
    del model
    gc.collect()
    assert runtime.cudart.locked == {}


def test_refused_page_lock_leaves_no_error_behind() -> None:
    """ONNX Runtime's next kernel would report it as its own."""
    library = gpu_runtime.Cudart(status=801)
    memory, pinned = Cudart(library).allocate_host((100,))
    assert (memory.nbytes, pinned, library.last_error) == (100, False, 0)
