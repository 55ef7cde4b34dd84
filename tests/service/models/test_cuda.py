"""Tests of the GPU code on machines without a GPU; those that need one are in tests/gpu."""

import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch

from contract.manifest import METADATA_KEY
from service.models.cuda import (
    PROVIDER,
    Buckets,
    GpuOptions,
    bucket_sizes,
    pin,
)
from service.models.session import CPU, Row, load_model
from service.settings import Settings
from tests.support.eventually import eventually
from tests.support.models.gpu_runtime import OUTPUTS, Cudart, Runtime, images
from training.export.graph import build_graph
from training.model import AlexNet


def stacked(rows: Sequence[Row]) -> dict[str, Any]:
    return {name: np.stack([row[name] for row in rows]) for name in rows[0]}


@pytest.mark.parametrize(
    ("max_batch", "sizes"),
    [(1, [1]), (2, [1, 2]), (3, [1, 2, 3]), (8, [1, 2, 4, 8]), (48, [1, 2, 4, 8, 16, 32, 48])],
)
def test_buckets_are_powers_of_two_and_the_largest_batch(max_batch: int, sizes: list[int]) -> None:
    assert bucket_sizes(max_batch) == sizes


@pytest.mark.parametrize("count", [1, 2, 3, 5, 6, 7, 17])
def test_bindings_give_the_outputs_of_the_session(model_file: Path, count: int) -> None:
    """The same code as on a GPU, with inputs in the CPU's memory."""
    session = ort.InferenceSession(model_file, providers=[CPU])
    buckets = Buckets(session, 224, 6, ort, device="cpu")
    for seed in range(2):  # the second must not see rows of the first
        batch = images(count, seed)
        for outputs in (OUTPUTS, OUTPUTS[:1], OUTPUTS[::-1]):
            results = buckets.run(outputs, {"images": batch})
            for name, values in zip(outputs, results, strict=True):
                expected = session.run([name], {"images": batch})[0]
                assert values.shape == expected.shape
                np.testing.assert_allclose(values, expected, rtol=1e-4, atol=1e-6)


def test_next_batch_is_copied_while_one_runs(model_file: Path) -> None:
    """The second batch runs when the first has ended."""
    runtime = Runtime()
    model = load_model(model_file, "cuda", 1, GpuOptions(2), runtime)
    (session,) = runtime.sessions
    first, second = images(1, 1), images(2, 2)
    entered, released, real = threading.Event(), threading.Event(), session.run_with_iobinding

    def gated(binding: Any) -> None:
        entered.set()
        assert released.wait(10)
        real(binding)

    session.run_with_iobinding = gated  # type: ignore[method-assign]
    session.ran.clear()
    with ThreadPoolExecutor(2) as threads:
        running = threads.submit(model.run, list(first))
        assert entered.wait(10)
        waiting = threads.submit(model.run, list(second))
        eventually(lambda: any(np.array_equal(value.numpy(), second) for value in runtime.inputs))
        assert not waiting.done()
        assert session.ran == []
        released.set()
        results = [running.result(10), waiting.result(10)]
    assert [len(batch) for batch in session.ran] == [1, 2]
    for batch, outputs in zip((first, second), results, strict=True):
        expected = load_model(model_file, "cpu", 1).run(list(batch))
        np.testing.assert_allclose(
            stacked(outputs)["probabilities"], stacked(expected)["probabilities"], rtol=1e-4, atol=1e-6
        )


def test_outputs_outlive_the_next_batch(model_file: Path) -> None:
    buckets = Buckets(ort.InferenceSession(model_file, providers=[CPU]), 224, 2, ort, device="cpu")
    first = buckets.run(OUTPUTS, {"images": images(2, 0)})
    copies = [values.copy() for values in first]
    buckets.run(OUTPUTS, {"images": images(2, 1)})
    for values, before in zip(first, copies, strict=True):
        np.testing.assert_array_equal(values, before)


def test_model_on_the_gpu_runs_padded_batches(model_file: Path) -> None:
    runtime = Runtime()
    options = GpuOptions(6, "exhaustive", max_workspace=False, tf32=True, memory_bytes=10**9)
    model = load_model(model_file, "cuda", 2, options, runtime)
    (session,) = runtime.sessions
    assert (model.provider, model.target_batch_size) == (PROVIDER, 1)
    assert session.provider == (
        PROVIDER,
        {
            "device_id": "0",
            "cudnn_conv_algo_search": "EXHAUSTIVE",
            "cudnn_conv_use_max_workspace": "0",
            "use_tf32": "1",
            "arena_extend_strategy": "kSameAsRequested",
            "gpu_mem_limit": "1000000000",
        },
    )
    # Every bucket runs before the model is served.
    assert [len(batch) for batch in session.ran] == [
        6,
        4,
        2,
        1,
    ]

    model.run(list(images(6, 1)))
    session.ran.clear()
    batch = images(5)
    rows, expected = (
        model.run(list(batch), OUTPUTS),
        load_model(model_file, "cpu", 1).run(list(batch), OUTPUTS),
    )
    for name, values in stacked(expected).items():
        np.testing.assert_allclose(stacked(rows)[name], values, rtol=1e-4, atol=1e-6)
    assert session.bound == list(OUTPUTS)
    (ran,) = session.ran
    np.testing.assert_array_equal(ran, np.concatenate([batch, np.zeros((1, 224, 224, 3), np.uint8)]))

    model.run(list(images(1, 1)))
    assert session.bound == ["probabilities"]
    assert session.ran[-1].shape == (1, 224, 224, 3)


def test_settings_reach_the_provider() -> None:
    assert GpuOptions.of(Settings()) == GpuOptions()
    variables = {"MAX_BATCH": "5", "CUDNN_SEARCH": "default", "CUDNN_MAX_WORKSPACE": "0", "TF32": "1"}
    settings = Settings.from_environ(variables | {"GPU_MEMORY_BYTES": "7"})
    assert GpuOptions.of(settings) == GpuOptions(5, "default", False, True, 7)


def test_default_provider_options() -> None:
    _name, options = GpuOptions().provider()
    assert options["cudnn_conv_algo_search"] == "HEURISTIC"
    assert (options["use_tf32"], options["cudnn_conv_use_max_workspace"]) == ("0", "1")
    assert "gpu_mem_limit" not in options


def test_fp16_model_takes_uint8_and_returns_float32(model_file: Path, tmp_path: Path) -> None:
    """A model in fp16 has the same inputs and outputs as every other file."""
    torch.manual_seed(0)
    graph = build_graph(AlexNet(7, 0.05, "kaiming"), [120.0] * 3, [1.0] * 3, "fp16")
    entry = next(e for e in onnx.load(model_file).metadata_props if e.key == METADATA_KEY)
    graph.metadata_props.append(entry)
    path = tmp_path / "half.onnx"
    onnx.save(graph, path)
    (row,) = load_model(path, "cuda", 1, GpuOptions(2), Runtime()).run(list(images(1)), OUTPUTS)
    assert {values.dtype.name for values in row.values()} == {"float32"}
    assert row["probabilities"].sum() == pytest.approx(1, abs=1e-3)


def test_memory_is_page_locked_while_a_view_of_it_is_in_use() -> None:
    memory, cudart = np.zeros(100, np.uint8), Cudart()
    assert pin(memory, cudart) is True
    assert cudart.locked == {memory.ctypes.data: 100}
    part = memory[:10]
    del memory
    assert len(cudart.locked) == 1
    del part
    assert cudart.locked == {}
