"""Test that benchmarks.gpu prints a row per file, precision and batch, as soon as it is measured."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import onnxruntime as ort
import pytest
import torch

from benchmarks.gpu import networks, torch_limits
from benchmarks.gpu.__main__ import HEADS, describe_machine, print_lines, read_torch_limits, report
from benchmarks.gpu.limits import MEMORY, Layer, layers, measure_card, min_seconds
from benchmarks.gpu.rates import images_per_s, images_per_s_after
from contract.manifest import METADATA_KEY, Manifest
from service.errors import WorkerLost
from service.models import onnx_file
from service.models.cuda import GpuOptions
from service.models.cuda_session import GPU_WORKERS
from service.models.session import Model
from tests.support.checkout import ROOT
from tests.support.models.gpu_runtime import Cudart, Runtime, load_on_gpu
from training.export.graph import build_graph
from training.model import AlexNet, Variant, layer_table

SHIPPED = ROOT / "models" / "flowers17.onnx"
CARD = [(MEMORY, 1e12), ("fp16", 1e14), ("fp32", 1e13), ("fp32, TF32", 5e13)]


def cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.split("|")[1:-1]]


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("networks")
    networks.write(folder, width=0.05)
    return [folder / "fp32.onnx", folder / "fp16.onnx"]


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
@pytest.mark.parametrize("arch", ["paper", "torchvision"])
def test_operations_and_weights_match_the_layer_table(arch: str, precision: str) -> None:
    network = AlexNet(10, 0.05, variant=Variant(arch))
    graph = build_graph(network, [0.0] * 3, [1.0] * 3, precision)
    result = layers(onnx_file.read(graph.SerializeToString()))
    expected = {row.name: row.multiply_adds for row in layer_table(network) if row.multiply_adds}
    assert {layer.name: layer.multiply_adds for layer in result} == expected
    weights = {n: p.numel() for n, p in network.named_parameters() if n.endswith(".weight")}
    assert {f"{layer.name}.weight": layer.weights for layer in result} == weights


@pytest.mark.parametrize(("precision", "seconds"), [("fp32", 3 + 8), ("int8", 3 + 8), ("fp16", 3 + 4)])
def test_limit_of_a_layer_is_computing_or_reading_its_weights(precision: str, seconds: float) -> None:
    network = [Layer("conv1", weights=1, multiply_adds=30), Layer("fc6", weights=20, multiply_adds=20)]
    assert min_seconds(network, precision, 1, multiply_adds_per_s=10, bytes_per_s=10) == seconds


def test_rates_of_the_card_are_measured_in_the_precision_of_each() -> None:
    runtime = Runtime()
    card = dict(measure_card(runtime, side=64, count=1000))
    assert list(card) == [name for name, _rate in CARD]
    assert min(card.values()) > 0
    # fp16 may use tensor cores, fp32 only with TF32
    assert [session.provider[1]["use_tf32"] for session in runtime.sessions] == ["0", "1", "0", "1"]


def test_report_has_a_row_for_every_file_precision_and_batch(files: list[Path]) -> None:
    runtime = Runtime()
    multiply_adds = sum(layer.multiply_adds for layer in layers(onnx_file.read(files[1].read_bytes())))
    lines = report(
        [SHIPPED, *files],
        CARD,
        {(multiply_adds, "fp16", 3): 1e-9},
        max_batch=3,
        seconds=0.01,
        runtime=runtime,
        load=lambda file, gpu: load_on_gpu(file, runtime, gpu),
    )
    memory, fp16, _fp32, _tf32, heads, *table = lines
    assert (memory, fp16) == (f"{MEMORY}: 1000 GB/s", "fp16: 100.0 10^12 multiply-adds/s")
    assert cells(heads.split("\n")[1]) == list(HEADS)
    rows = [dict(zip(HEADS, cells(row), strict=True)) for row in table]
    assert [(row["file"], row["precision"], row["batch"]) for row in rows] == [
        (file, precision, batch)
        for file, precisions in (
            ("flowers17.onnx", ("int8", "int8, TF32")),
            ("fp32.onnx", ("fp32", "fp32, TF32")),
            ("fp16.onnx", ("fp16",)),
        )
        for precision in precisions
        for batch in ("3", "2", "1")
    ]
    assert all(float(row["network alone"]) > 0 and float(row["after another size"]) > 0 for row in rows)
    shares = {(row["precision"], row["batch"]): row["of PyTorch's"] for row in rows}
    assert {key for key, share in shares.items() if share} == {("fp16", "3")}


def test_batches_come_after_another_size(files: list[Path]) -> None:
    runtime = Runtime()
    model = load_on_gpu(files[0], runtime, GpuOptions(4))
    (session,) = runtime.sessions
    session.ran.clear()
    assert images_per_s_after(model, 2, 4, seconds=0) > 0
    assert [len(batch) for batch in session.ran] == [4, 2]


@pytest.mark.parametrize("threads", [1, 2])
def test_every_thread_runs_a_batch_of_random_crops(files: list[Path], threads: int) -> None:
    runtime = Runtime()
    model = load_on_gpu(files[0], runtime, GpuOptions(2))
    (session,) = runtime.sessions
    session.ran.clear()
    assert images_per_s(model, 2, threads, seconds=0) > 0
    assert [len(batch) for batch in session.ran] == [2] * (GPU_WORKERS + threads)
    assert all(batch.std() > 50 for batch in session.ran)


def test_rows_before_a_failure_are_printed(files: list[Path], capsys: pytest.CaptureFixture[str]) -> None:
    """The first file's rows are out before the second one is loaded."""
    runtime, printed = Runtime(), list[str]()

    def load(file: Path, gpu: GpuOptions) -> Model:
        if file == files[1]:
            printed.extend(capsys.readouterr().out.splitlines())
            raise WorkerLost("the GPU failed")
        return load_on_gpu(file, runtime, gpu)

    lines = report(files, CARD, {}, max_batch=1, seconds=0.01, runtime=runtime, load=load)
    assert print_lines(lines) == 1
    assert [cells(line)[:2] for line in printed[-2:]] == [
        ["fp32.onnx", "fp32"],
        ["fp32.onnx", "fp32, TF32"],
    ]
    assert capsys.readouterr() == ("", "error: the GPU failed\n")


def test_missing_nvidia_smi_loses_nothing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    text = describe_machine(SimpleNamespace(__version__="1.0", cuda_version="13.0"))
    assert text.startswith("unknown GPU (")
    assert "ONNX Runtime 1.0, CUDA 13.0" in text


class Unlockable(Cudart):
    """A CUDA runtime library that refuses to page-lock memory."""

    def cudaHostRegister(self, *_arguments: Any) -> int:  # noqa: N802
        return 801


def test_memory_that_is_not_page_locked_is_reported(files: list[Path]) -> None:
    runtime = Runtime()
    runtime.cudart = Unlockable()
    lines = report(files[1:], CARD, {}, 1, 0.01, runtime, lambda file, gpu: load_on_gpu(file, runtime, gpu))
    assert "host memory for fp16.onnx is not page-locked" in lines


def test_written_networks_are_valid_model_files(files: list[Path]) -> None:
    for path in files:
        file = onnx_file.read(path.read_bytes())
        onnx_file.check(file)
        manifest = Manifest.from_json(file.metadata[METADATA_KEY])
        assert (manifest.precision, len(manifest.classes)) == (path.stem, 1000)


def test_torch_limits_are_read_as_they_are_printed(files: list[Path]) -> None:
    rows = list(torch_limits.measure("cpu", 0.05, [1], passes=1))
    limits = read_torch_limits("\n".join(map(json.dumps, rows)))
    multiply_adds = sum(layer.multiply_adds for layer in layers(onnx_file.read(files[0].read_bytes())))
    assert set(limits) == {(multiply_adds, precision, 1) for precision, _rate in CARD[1:]}
    assert min(limits.values()) > 0


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_torch_without_a_gpu_is_reported(capsys: pytest.CaptureFixture[str]) -> None:
    assert torch_limits.main() == 1
    assert capsys.readouterr() == ("", "error: torch finds no GPU\n")


@pytest.mark.skipif("CUDAExecutionProvider" in ort.get_available_providers(), reason="there is a provider")
def test_missing_cuda_provider_is_reported(capsys: pytest.CaptureFixture[str]) -> None:
    assert print_lines(report([SHIPPED], measure_card(ort, side=2, count=2), {}, 1, 0.01)) == 1
    assert capsys.readouterr().err == (
        "error: this ONNX Runtime has no CUDA provider (the extra `gpu` has; it takes x86-64)\n"
    )
