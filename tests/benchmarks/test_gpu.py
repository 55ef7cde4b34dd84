"""Test that benchmarks/gpu.py prints a row per file and batch, and counts operations per layer."""

import sys
from pathlib import Path

import onnxruntime as ort
import pytest

from benchmarks import gpu
from contract.manifest import METADATA_KEY, Manifest
from service.models import onnx_file as onnxfile
from service.models.cuda import GpuOptions
from tests.support.checkout import ROOT
from tests.support.models.gpu_runtime import Runtime
from training.export.graph import build_graph
from training.model import AlexNet, Variant, layer_table

SHIPPED = ROOT / "models" / "flowers17.onnx"


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
@pytest.mark.parametrize("arch", ["paper", "torchvision"])
def test_operations_and_weights_match_the_layer_table(arch: str, precision: str) -> None:
    network = AlexNet(10, 0.05, variant=Variant(arch))
    graph = build_graph(network, [0.0] * 3, [1.0] * 3, precision)
    layers = gpu.layers(graph.SerializeToString())
    expected = {row.name: row.multiply_adds for row in layer_table(network) if row.multiply_adds}
    assert {layer.name: layer.multiply_adds for layer in layers} == expected
    weights = {n: p.numel() for n, p in network.named_parameters() if n.endswith(".weight")}
    assert {f"{layer.name}.weight": layer.weights for layer in layers} == weights


def test_report_has_a_row_for_every_batch_and_precision() -> None:
    text = gpu.report([SHIPPED], GpuOptions(3), 0.01, side=64, count=1000, runtime=Runtime())
    rows = [line.split("|")[1:6] for line in text.splitlines() if line.startswith("| flowers17")]
    assert [(row[1].strip(), row[2].strip()) for row in rows] == [
        (kind, batch) for kind in ("int8", "int8, TF32") for batch in ("1", "2", "3")
    ]
    assert all(float(row[3]) > 0 for row in rows)
    assert "not page-locked" in text


def test_written_model_files_are_valid(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = AlexNet
    monkeypatch.setattr("training.model.AlexNet", lambda classes, _width, init: real(classes, 0.05, init))
    gpu.write(tmp_path)
    for precision in ("fp32", "fp16"):
        file = onnxfile.read((tmp_path / f"{precision}.onnx").read_bytes())
        onnxfile.check(file)
        manifest = Manifest.from_json(file.metadata[METADATA_KEY])
        assert (manifest.precision, len(manifest.classes)) == (precision, 1000)


@pytest.mark.skipif("CUDAExecutionProvider" in ort.get_available_providers(), reason="there is a provider")
def test_missing_cuda_provider_is_reported(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["gpu"])
    assert gpu.main() == 1
    assert capsys.readouterr().err == (
        "error: this ONNX Runtime has no CUDA provider (the extra `gpu` has; it takes x86-64)\n"
    )
