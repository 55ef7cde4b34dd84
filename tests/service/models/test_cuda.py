"""What happens on a GPU, without one; what depends on a real one is in tests/gpu."""

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


def rows(found: Sequence[Row]) -> dict[str, Any]:
    return {name: np.stack([row[name] for row in found]) for name in found[0]}


@pytest.mark.parametrize(
    ("most", "sizes"),
    [(1, [1]), (2, [1, 2]), (3, [1, 2, 3]), (8, [1, 2, 4, 8]), (48, [1, 2, 4, 8, 16, 32, 48])],
)
def test_buckets_are_powers_of_two_and_the_largest_batch(most: int, sizes: list[int]) -> None:
    assert bucket_sizes(most) == sizes


@pytest.mark.parametrize("count", [1, 2, 3, 5, 6, 7, 17])
def test_bindings_answer_as_the_session_does(model_file: Path, count: int) -> None:
    """Nothing stands in for anything here: the same code, with inputs in the CPU's memory."""
    session = ort.InferenceSession(model_file, providers=[CPU])
    buckets = Buckets(session, 224, 6, ort, device="cpu")
    for seed in range(2):  # nothing is left of the first
        batch = images(count, seed)
        for outputs in (OUTPUTS, OUTPUTS[:1], OUTPUTS[::-1]):
            found = buckets.run(outputs, {"images": batch})
            for name, values in zip(outputs, found, strict=True):
                expected = session.run([name], {"images": batch})[0]
                assert values.shape == expected.shape
                np.testing.assert_allclose(values, expected, rtol=1e-4, atol=1e-6)


def test_the_next_batch_is_copied_while_one_runs(model_file: Path) -> None:
    """And runs when that one has ended."""
    runtime = Runtime()
    model = load_model(model_file, "cuda", 1, GpuOptions(2), runtime)
    (session,) = runtime.sessions
    first, second = images(1, 1), images(2, 2)
    entered, may_go_on, real = threading.Event(), threading.Event(), session.run_with_iobinding

    def gated(binding: Any) -> None:
        entered.set()
        assert may_go_on.wait(10)
        real(binding)

    session.run_with_iobinding = gated  # type: ignore[method-assign]
    session.ran.clear()
    with ThreadPoolExecutor(2) as threads:
        running = threads.submit(model.run, list(first))
        assert entered.wait(10)
        behind = threads.submit(model.run, list(second))
        eventually(lambda: any(np.array_equal(taken.numpy(), second) for taken in runtime.inputs))
        assert not behind.done()
        assert session.ran == []
        may_go_on.set()
        found = [running.result(10), behind.result(10)]
    assert [len(batch) for batch in session.ran] == [1, 2]
    for batch, answers in zip((first, second), found, strict=True):
        wanted = load_model(model_file, "cpu", 1).run(list(batch))
        np.testing.assert_allclose(
            rows(answers)["probabilities"], rows(wanted)["probabilities"], rtol=1e-4, atol=1e-6
        )


def test_answers_outlive_the_next_batch(model_file: Path) -> None:
    buckets = Buckets(ort.InferenceSession(model_file, providers=[CPU]), 224, 2, ort, device="cpu")
    first = buckets.run(OUTPUTS, {"images": images(2, 0)})
    kept = [values.copy() for values in first]
    buckets.run(OUTPUTS, {"images": images(2, 1)})
    for values, before in zip(first, kept, strict=True):
        np.testing.assert_array_equal(values, before)


def test_a_model_on_the_gpu(model_file: Path) -> None:
    runtime = Runtime()
    options = GpuOptions(6, "exhaustive", max_workspace=False, tf32=True, memory_bytes=10**9)
    model = load_model(model_file, "cuda", 2, options, runtime)
    (session,) = runtime.sessions
    assert (model.provider, model.target_batch_size) == (PROVIDER, 1)
    assert session.asked == (
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
    assert [len(batch) for batch in session.ran] == [6, 4, 2, 1]  # every bucket before it is ready

    model.run(list(images(6, 1)))
    session.ran.clear()
    batch = images(5)
    found, expected = (
        model.run(list(batch), OUTPUTS),
        load_model(model_file, "cpu", 1).run(list(batch), OUTPUTS),
    )
    for name, values in rows(expected).items():
        np.testing.assert_allclose(rows(found)[name], values, rtol=1e-4, atol=1e-6)
    assert session.bound == list(OUTPUTS)
    (ran,) = session.ran
    np.testing.assert_array_equal(ran, np.concatenate([batch, np.zeros((1, 224, 224, 3), np.uint8)]))

    model.run(list(images(1, 1)))
    assert session.bound == ["probabilities"]
    assert session.ran[-1].shape == (1, 224, 224, 3)


def test_the_settings_reach_the_provider() -> None:
    assert GpuOptions.of(Settings()) == GpuOptions()
    variables = {"MAX_BATCH": "5", "CUDNN_SEARCH": "default", "CUDNN_MAX_WORKSPACE": "0", "TF32": "1"}
    settings = Settings.from_environ(variables | {"GPU_MEMORY_BYTES": "7"})
    assert GpuOptions.of(settings) == GpuOptions(5, "default", False, True, 7)


def test_the_defaults_are_those_that_were_not_asked_for() -> None:
    _name, options = GpuOptions().provider()
    assert options["cudnn_conv_algo_search"] == "HEURISTIC"
    assert (options["use_tf32"], options["cudnn_conv_use_max_workspace"]) == ("0", "1")
    assert "gpu_mem_limit" not in options


def test_float16_in_between(model_file: Path, tmp_path: Path) -> None:
    """uint8 goes in and float32 comes out, as of every file."""
    torch.manual_seed(0)
    graph = build_graph(AlexNet(7, 0.05, "kaiming"), [120.0] * 3, [1.0] * 3, "fp16")
    entry = next(e for e in onnx.load(model_file).metadata_props if e.key == METADATA_KEY)
    graph.metadata_props.append(entry)
    path = tmp_path / "half.onnx"
    onnx.save(graph, path)
    (row,) = load_model(path, "cuda", 1, GpuOptions(2), Runtime()).run(list(images(1)), OUTPUTS)
    assert {values.dtype.name for values in row.values()} == {"float32"}
    assert row["probabilities"].sum() == pytest.approx(1, abs=1e-3)


def test_memory_is_page_locked_as_long_as_a_part_of_it_is_in_use() -> None:
    memory, cudart = np.zeros(100, np.uint8), Cudart()
    assert pin(memory, cudart) is True
    assert cudart.locked == {memory.ctypes.data: 100}
    part = memory[:10]
    del memory
    assert len(cudart.locked) == 1
    del part
    assert cudart.locked == {}
