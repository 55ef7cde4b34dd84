"""Test what ONNX Runtime's CUDA provider does with our sessions: nodes, copies, launches, failures."""

import ctypes
import gc
import json
import os
import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest

from contract.manifest import METADATA_KEY, Manifest
from contract.preprocess import Pixels
from service.errors import ModelError, WorkerLost
from service.models import onnx_file
from service.models.cuda import PROVIDER, GpuOptions, open_session
from service.models.cuda_session import GpuSession
from service.models.session import CPU, Model, load_model
from tests.support.checkout import ROOT
from tests.support.cuda_stand_in.calls import Calls, setting
from tests.support.eventually import eventually

pytestmark = pytest.mark.cuda_api

SHIPPED = ROOT / "models" / "flowers17.onnx"
MODELS = Path(os.environ.get("CUDA_API_MODELS", ""))
FILES = [SHIPPED, MODELS / "fp32.onnx", MODELS / "fp16.onnx"]
UNFAMILIAR = [MODELS / f"unfamiliar-{precision}.onnx" for precision in ("fp32", "fp16", "int8")]
IMAGE = 224 * 224 * 3  # bytes
every_file = pytest.mark.parametrize("file", [*FILES, *UNFAMILIAR], ids=lambda file: file.name)


@pytest.fixture(autouse=True)
def results_are_zeros() -> Iterator[None]:
    """Nothing computes results, which would be what was in their memory before, such as NaN."""
    with setting("FAKE_NO_COPY", 1):
        yield


def calls_from_now() -> Calls:
    """Return the calls from now on, without those that free the models of earlier tests."""
    gc.collect()
    return Calls(Path(os.environ["FAKE_LOG"]))


def images(count: int) -> Pixels:
    return np.zeros((count, 224, 224, 3), np.uint8)


def on_gpu(file: Path, max_batch: int, tf32: bool = False) -> Model:
    return load_model(file, "cuda", 2, GpuOptions(max_batch, tf32))


@every_file
def test_every_node_runs_on_the_gpu(file: Path, tmp_path: Path) -> None:
    data = file.read_bytes()
    precision = Manifest.from_json(onnx_file.read(data).metadata[METADATA_KEY]).precision
    options = ort.SessionOptions()
    options.enable_profiling, options.profile_file_prefix = True, str(tmp_path / "profile")
    session = open_session(data, options, GpuOptions(4).provider(precision), ort)
    binding, no_graph = session.io_binding(), ort.RunOptions()
    no_graph.add_run_config_entry("gpu_graph_id", "-1")
    binding.bind_cpu_input("images", images(4))
    for output in session.get_outputs():
        binding.bind_output(output.name)
    session.run_with_iobinding(binding, no_graph)
    events = json.loads(Path(session.end_profiling()).read_text())
    nodes = [event["args"] for event in events if event["cat"] == "Node" and "provider" in event["args"]]
    names = Counter(node["op_name"] for node in nodes)
    assert names["Conv"] + names["FusedConv"] == 5
    assert {node["provider"] for node in nodes} == {PROVIDER}
    assert not {name for name in names if "Memcpy" in name}
    # Of an int8 file, activations are rounded, in pairs of nodes; weights are float32 once it is loaded.
    assert names["QuantizeLinear"] == names["DequantizeLinear"]


@every_file
def test_batch_is_one_launch_and_no_plan_whatever_its_size(file: Path) -> None:
    model = on_gpu(file, max_batch=32)
    row = {"probabilities": 4 * len(model.manifest.classes), "unfamiliarity": 4}  # bytes
    sizes = [1, 32, 3, 3, 7, 2, 16, 1, 31, 5]
    for outputs in (("probabilities",), model.answer_outputs):
        calls = calls_from_now()
        for size in sizes:
            results = model.run([images(size)], outputs)
            assert [len(values) for values in results.values()] == [size] * len(outputs)
        assert calls.counts() == {
            "cudaMemcpy(sync)": (1 + len(outputs)) * len(sizes),
            "graphLaunch": len(sizes),
            "streamSynchronize": len(sizes),
        }
        assert [call.details for call in calls.named("cudaMemcpy(sync)")] == [
            copied
            for size in sizes
            for copied in (f"HtoD {size * IMAGE}", *(f"DtoH {size * row[name]}" for name in outputs))
        ]


def test_parts_reach_the_gpu_in_one_copy() -> None:
    model = on_gpu(SHIPPED, max_batch=8)
    calls = calls_from_now()
    model.run([images(1), images(4), images(2)])
    assert [call.details for call in calls.named("cudaMemcpy(sync)", "HtoD")] == [f"HtoD {7 * IMAGE}"]


def test_features_run_without_a_graph() -> None:
    model = on_gpu(SHIPPED, max_batch=4)
    calls = calls_from_now()
    outputs = model.run([images(3)], ["conv5", "probabilities", "fc7"])
    assert {name: len(values) for name, values in outputs.items()} == {
        "conv5": 3,
        "probabilities": 3,
        "fc7": 3,
    }
    assert not calls.named("graphLaunch")
    assert not calls.named("beginCapture")
    assert calls.named("launch")


def test_one_thread_captures_and_launches_for_every_model() -> None:
    calls = calls_from_now()
    models = [on_gpu(SHIPPED, max_batch=2) for _model in range(2)]
    handles = len(calls.named("cudnnCreate"))
    for model in models:
        with ThreadPoolExecutor(3) as threads:
            list(threads.map(model.run, [[images(1)]] * 6))
    owned = ("beginCapture", "graphLaunch", "cudnnBackendExecute")
    assert len({call.thread for call in calls if call.name in owned}) == 1
    assert len(calls.named("cudnnCreate")) == handles, "no run makes handles"


def test_next_batch_is_copied_while_one_runs(tmp_path: Path) -> None:
    model = on_gpu(SHIPPED, max_batch=2)
    calls = calls_from_now()
    with setting("FAKE_RUN_GATE", tmp_path / "gate"), ThreadPoolExecutor(2) as threads:
        first = threads.submit(model.run, [images(1)])
        eventually(lambda: calls.named("streamSynchronize"))
        second = threads.submit(model.run, [images(2)])
        eventually(lambda: calls.named("cudaMemcpy(sync)", f"HtoD {2 * IMAGE}"))
        assert calls.counts()["graphLaunch"] == 1
        assert not first.done()
        (tmp_path / "gate").touch()
        assert [len(run.result()["probabilities"]) for run in (first, second)] == [1, 2]


@pytest.mark.parametrize("gate", ["FAKE_COPY_GATE", "FAKE_RUN_GATE"])
def test_interpreter_is_free_while_the_gpu_copies_or_runs(tmp_path: Path, gate: str) -> None:
    """If it were not, this thread could not open the gate, and the call would fail."""
    model = on_gpu(SHIPPED, max_batch=2)
    calls = calls_from_now()
    with setting(gate, tmp_path / "gate"), ThreadPoolExecutor(1) as threads:
        running = threads.submit(model.run, [images(2)])
        eventually(lambda: calls.named("streamSynchronize" if "RUN" in gate else "cudaMemcpy(sync)"))
        assert not running.done()
        (tmp_path / "gate").touch()
        assert len(running.result()["probabilities"]) == 2


@contextmanager
def another_model_captures(gate: Path) -> Iterator[tuple[Calls, ThreadPoolExecutor]]:
    """Load a model, which captures a graph until `gate` exists; then no call must have spoilt it."""
    calls = calls_from_now()
    with setting("FAKE_CAPTURE_GATE", gate), ThreadPoolExecutor(2) as threads:
        loading = threads.submit(on_gpu, SHIPPED, 2)
        eventually(lambda: calls.named("beginCapture"))
        yield calls, threads
        gate.touch()
        assert len(loading.result().run([images(2)])["probabilities"]) == 2
    assert not calls.named("prohibited")


def test_batch_is_copied_while_another_model_captures_a_graph(tmp_path: Path) -> None:
    """The copy must not spoil the capture; the run waits for its end."""
    model = on_gpu(SHIPPED, max_batch=2)
    with another_model_captures(tmp_path / "gate") as (calls, threads):
        running = threads.submit(model.run, [images(2)])
        eventually(lambda: calls.named("cudaMemcpy(sync)", f"HtoD {2 * IMAGE}"))
        assert model.gpu_memory_used > 0
        assert not calls.named("graphLaunch")
    assert len(running.result()["probabilities"]) == 2


def test_model_is_freed_while_another_one_captures_a_graph(tmp_path: Path) -> None:
    models = [on_gpu(SHIPPED, max_batch=2)]
    with another_model_captures(tmp_path / "gate") as (calls, threads):
        threads.submit(models.clear).result()  # a thread that has not called CUDA before
        assert calls.named("cudaFree")


def test_model_is_opened_while_another_one_captures_a_graph(tmp_path: Path) -> None:
    with another_model_captures(tmp_path / "gate") as (calls, threads):
        allocated = calls.counts()["cudaMalloc"]
        opening = threads.submit(on_gpu, FILES[1], 2)
        eventually(lambda: calls.counts()["cudaMalloc"] > allocated)
    assert opening.result().provider == PROVIDER


def test_models_are_loaded_while_another_runs() -> None:
    model, stopped = on_gpu(SHIPPED, max_batch=2), threading.Event()
    calls = calls_from_now()

    def run_until_stopped() -> int:
        batches = 0
        while not stopped.is_set():
            model.run([images(2)], ["probabilities", "fc7"] if batches % 2 else ["probabilities"])
            batches += 1
        return batches

    with ThreadPoolExecutor(2) as threads:
        running = [threads.submit(run_until_stopped) for _thread in range(2)]
        try:
            eventually(lambda: calls.named("graphLaunch"))
            for _model in range(3):
                on_gpu(SHIPPED, max_batch=8)
        finally:
            stopped.set()
        assert all(batches.result() for batches in running)
    assert len(calls.named("endCapture")) == 3 * 2 * 4  # of four sizes in two slots
    assert not calls.named("prohibited")


def test_call_of_another_thread_spoils_a_capture_unless_its_mode_is_relaxed() -> None:
    """This is CUDA's rule, and the stand-in's; without it the test above could not fail."""
    session = on_gpu(SHIPPED, max_batch=1).session
    assert isinstance(session, GpuSession)
    library = session._cudart._library
    with ThreadPoolExecutor(1) as other:
        assert library.cudaStreamBeginCapture(None, 0) == 0
        assert other.submit(library.cudaMemcpy, None, None, 0, 1).result() == 900
        assert other.submit(session._cudart.copy, 0, 0, 0, 1).result() is None
        assert library.cudaStreamEndCapture(None, ctypes.byref(ctypes.c_void_p())) == 901
        library.cudaGetLastError()
        other.submit(library.cudaGetLastError).result()


def test_tensor_cores_are_used_for_fp16_only_by_default() -> None:
    """Without TF32 the provider rejects cuDNN's engine of the tensor cores, and plans again."""
    plans = {}
    for file, tf32 in ((FILES[1], False), (FILES[1], True), (FILES[2], False)):
        with setting("FAKE_TENSOR_CORE", 1):
            calls = calls_from_now()
            on_gpu(file, max_batch=1, tf32=tf32)
            plans[file.stem, tf32] = len(calls.named("cudnnBackendFinalize", "ENGINEHEUR"))
    assert plans["fp16", False] == plans["fp32", True] < plans["fp32", False]


def test_memory_that_cannot_be_page_locked_is_copied_from_all_the_same() -> None:
    with setting("FAKE_NO_PIN", 1):
        model = on_gpu(SHIPPED, max_batch=2)
    assert isinstance(model.session, GpuSession)
    assert not model.session.pinned
    assert len(model.run([images(2)])["probabilities"]) == 2


def test_failure_of_the_gpu_is_logged_by_its_cause(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    model = on_gpu(SHIPPED, max_batch=2)
    (tmp_path / "broken").touch()
    cause = "CUDA failure 700: an illegal memory access was encountered"
    with setting("FAKE_BREAK", tmp_path / "broken"):
        with pytest.raises(WorkerLost):
            model.run([images(1)])
        assert caplog.messages == ["the GPU failed: CUDA failure 700: cudaMemcpy of 150528 bytes"]
        with pytest.raises(ModelError) as raised:
            on_gpu(SHIPPED, max_batch=2)
    assert cause in str(raised.value)
    assert str(raised.value).endswith(f"{cause}; use DEVICE=auto or cpu for the CPU")
    assert load_model(SHIPPED, "auto", 1).provider == PROVIDER  # it answers again


def test_without_a_device_the_cpu_is_used() -> None:
    with setting("FAKE_NONE", 1):
        assert load_model(SHIPPED, "auto", 1).provider == CPU
        with pytest.raises(ModelError, match=r"DEVICE=cuda, but no CUDA session could be opened") as raised:
            on_gpu(SHIPPED, max_batch=2)
    assert "Parse" not in str(raised.value)
