"""Tests of models whose graph computes the unfamiliarity, on the CPU and in CUDA graphs."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from contract.trust import UNFAMILIARITY
from service.errors import ModelError
from service.models.cuda import GpuOptions
from service.models.cuda_session import bucket_sizes
from service.models.session import Model, load_model
from tests.support.manifests import MANIFEST, TRUST
from tests.support.models.gpu_runtime import Runtime, images, load_on_gpu
from tests.support.models.unfamiliar import small_network, unfamiliar_graph, write_unfamiliar
from training.export.graph import PRECISIONS, build_graph

ANSWER = ("probabilities", UNFAMILIARITY)
LOADERS: dict[str, Callable[[Path], Model]] = {
    "cpu": lambda path: load_model(path, "cpu", 1),
    "every core": lambda path: load_model(path, "cpu", 2, large_bytes=0),
    "gpu": lambda path: load_on_gpu(path, Runtime(), GpuOptions(1), "auto"),
}


@pytest.fixture(scope="module")
def unfamiliar(tmp_path_factory: pytest.TempPathFactory) -> Path:
    graph = unfamiliar_graph(small_network(), "fp32")
    return write_unfamiliar(tmp_path_factory.mktemp("model") / "unfamiliar.onnx", graph)


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file without the section trust."""
    graph = build_graph(small_network(0.02), MANIFEST.mean, MANIFEST.std, "fp32")
    return write_unfamiliar(tmp_path_factory.mktemp("model") / "plain.onnx", graph, manifest=MANIFEST)


def with_constant(name: str, value: object, kind: type[np.generic] = np.float32) -> onnx.ModelProto:
    """Build the graph with another value of a constant of the part."""
    model = unfamiliar_graph(small_network(0.02), "fp32")
    (tensor,) = (tensor for tensor in model.graph.initializer if tensor.name == name)
    tensor.CopyFrom(numpy_helper.from_array(np.asarray(value, kind), name))
    return model


@pytest.mark.parametrize("precision", PRECISIONS)
def test_answer_has_a_value_for_each_image(precision: str, tmp_path: Path) -> None:
    graph = unfamiliar_graph(small_network(), precision)
    model = load_model(write_unfamiliar(tmp_path / "m.onnx", graph, precision), "cpu", 1)
    assert model.answer_outputs == ANSWER
    outputs = model.run([images(2), images(1, seed=1)], model.answer_outputs)
    values = outputs[UNFAMILIARITY]
    assert (values.dtype.name, values.shape, len(set(values.tolist()))) == ("float32", (3,), 3)
    assert 0 < values.min() < values.max() < 1
    alone = model.run([images(1, seed=1)], [UNFAMILIARITY])[UNFAMILIARITY]
    np.testing.assert_allclose(alone, values[2:], atol=1e-6)


def test_answer_of_a_file_without_familiarity_is_its_probabilities(plain: Path, tmp_path: Path) -> None:
    assert load_model(plain, "cpu", 1).answer_outputs == ("probabilities",)
    manifest = replace(MANIFEST, trust=replace(TRUST, familiarity=None))
    path = write_unfamiliar(tmp_path / "m.onnx", onnx.load(plain), manifest=manifest)
    assert load_model(path, "cpu", 1).answer_outputs == ("probabilities",)


@pytest.mark.parametrize("device", LOADERS)
@pytest.mark.parametrize(
    ("constant", "value", "error"),
    [
        (
            "shape",
            [-1, 1],
            r"^m\.onnx has unfamiliarity of shape \(1, 1\) for an image; it must be \(1,\)$",
        ),
        ("scale", np.full(100, np.nan), r"^m\.onnx does not run: .* NaN or infinity in unfamiliarity$"),
    ],
)
def test_file_with_a_wrong_unfamiliarity_is_refused(
    constant: str, value: object, error: str, device: str, tmp_path: Path
) -> None:
    kind = np.int64 if constant == "shape" else np.float32
    graph = with_constant(f"unfamiliarity.{constant}", value, kind)
    if constant == "shape":
        graph.graph.output[-1].type.tensor_type.shape.dim.add(dim_value=1)
    path = write_unfamiliar(tmp_path / "m.onnx", graph)
    with pytest.raises(ModelError, match=error):
        LOADERS[device](path)


@pytest.mark.parametrize("outputs", [ANSWER[:1], ANSWER, ANSWER[::-1], ANSWER[1:]])
def test_outputs_of_an_answer_come_from_one_cuda_graph(unfamiliar: Path, outputs: tuple[str, ...]) -> None:
    runtime = Runtime()
    model = load_on_gpu(unfamiliar, runtime, GpuOptions(5))
    (session,) = runtime.sessions
    captured = set(session.graphs) - {"-1"}
    session.graphs.clear()
    batches = [images(count, seed) for seed, count in enumerate((1, 5, 2, 3))]
    results = [model.run([batch], outputs) for batch in batches]
    assert len(session.graphs) == len(batches)
    assert captured.issuperset(session.graphs)
    on_cpu = load_model(unfamiliar, "cpu", 1)
    for batch, result in zip(batches, results, strict=True):
        assert list(result) == list(outputs)
        for name, values in on_cpu.run([batch], outputs).items():
            np.testing.assert_allclose(result[name], values, rtol=1e-4, atol=1e-6)


def test_outputs_beside_those_of_an_answer_run_without_a_graph(unfamiliar: Path) -> None:
    runtime = Runtime()
    model = load_on_gpu(unfamiliar, runtime, GpuOptions(5))
    result = model.run([images(3)], (*ANSWER, "fc7"))
    assert {name: len(values) for name, values in result.items()} == dict.fromkeys((*ANSWER, "fc7"), 3)
    assert runtime.sessions[0].graphs[-1] == "-1"


def test_cuda_graphs_compute_what_answers_need(unfamiliar: Path, plain: Path) -> None:
    for path, outputs in ((unfamiliar, ANSWER), (plain, ANSWER[:1])):
        runtime = Runtime()
        model = load_on_gpu(path, runtime, GpuOptions(2))
        of_slot = list(outputs) * len(bucket_sizes(2))
        every = [output.name for output in runtime.sessions[0].get_outputs()]  # once, without a graph
        assert runtime.sessions[0].bound == of_slot + every + of_slot
        assert model.answer_outputs == outputs
