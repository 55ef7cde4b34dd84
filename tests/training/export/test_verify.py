"""The commands inspect and verify: valid files pass, changed files and other files are refused."""

import json
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from contract.manifest import Manifest, Metrics
from tests.support.runs import CLASSES, images, trained
from training.__main__ import main
from training.evaluate import torch_classifier
from training.export.export import export
from training.export.graph import PRECISIONS
from training.export.parity import Difference, Parity, classifier_of
from training.export.verify import Verification, read_model
from training.model import AlexNet
from training.start.weights import read_start


@pytest.fixture(scope="module", params=PRECISIONS)
def model_file(
    request: pytest.FixtureRequest, photographs: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    folder = tmp_path_factory.mktemp("model")
    export(trained(folder / "best.pt"), folder / "colours.onnx", request.param, data=photographs)
    return folder / "colours.onnx"


def altered(file: Path, out: Path, change: Callable[[onnx.ModelProto], None]) -> Path:
    model = onnx.load(file)
    change(model)
    onnx.save(model, out)
    return out


def test_inspect_prints_the_manifest(model_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", str(model_file)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("colours version 1, ")
    assert {line.split()[0] for line in lines[1:]} == {
        *("architecture", "classes", "input", "output", "preprocessing", "mean", "std"),
        *("accuracy", "parity", "training", "settings"),
    }
    assert f"  classes        4: {', '.join(CLASSES)}" in lines
    assert main(["inspect", str(model_file), "--json"]) == 0
    manifest = Manifest.from_json(capsys.readouterr().out)
    assert manifest.name == "colours"
    assert manifest.classes == CLASSES


def test_verify_passes_an_unchanged_file(
    model_file: Path, photographs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["verify", str(model_file), "--data", str(photographs)]) == 0
    output = capsys.readouterr().out
    assert "file to torch in float64" in output
    assert "1 crop(s), 6 images" in output
    assert "10 crop(s), 6 images" in output


def test_weights_read_from_a_model_file_compute_the_same(model_file: Path) -> None:
    """int8 also rounds the activations, which the restored network does not."""
    model, manifest = read_model(model_file)
    start = read_start(str(model_file), 1.0)
    assert (start.classes, start.std) == (CLASSES, [58.0] * 3), "conv1 has its original scale"
    network = AlexNet(len(CLASSES), start.shape["width"])
    network.load_state_dict(dict(start.weights))
    expected = classifier_of(model)(images(8))
    probabilities = torch_classifier(network, start.mean, start.std)(images(8))
    tolerance = {"fp32": 1e-5, "fp16": 2e-3, "int8": 0.05}[manifest.precision]
    assert (probabilities - expected).abs().max() <= tolerance
    assert (expected.amax(0) - expected.amin(0)).max() > 2 * tolerance, (
        "the answers differ enough for the comparison to mean something"
    )


def another_accuracy(model: onnx.ModelProto) -> None:
    (entry,) = model.metadata_props
    record = json.loads(entry.value)
    record["metrics"][0]["top1"] = record["metrics"][0]["top5"] = 1.0  # of 6 images it has fewer right
    entry.value = json.dumps(record)


def another_norm(model: onnx.ModelProto) -> None:
    tensor = next(t for t in model.graph.initializer if t.name == "conv1.norm.k")
    tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor) * np.float32(3), tensor.name))


@pytest.mark.parametrize("model_file", ["int8"], indirect=True)  # with the widest tolerances
@pytest.mark.parametrize("change", [another_accuracy, another_norm])
def test_verify_fails_a_changed_file(
    change: Callable[[onnx.ModelProto], None],
    model_file: Path,
    photographs: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    file = altered(model_file, tmp_path / "changed.onnx", change)
    assert main(["verify", str(file), "--data", str(photographs)]) == 1
    output = capsys.readouterr().err
    assert "changed.onnx fails verification: " in output
    if change is another_accuracy:
        assert re.search(
            r"top-1 with 1 crop\(s\) is [\d.]+ % on 6 photographs, the manifest has [\d.]+ % on 6", output
        )
    else:
        assert re.search(r"differ from torch's by [\d.e-]+ on average, the manifest has [\d.e-]+", output)


@pytest.mark.parametrize(
    ("top1", "largest", "failures"),
    [
        (0.9, 1e-6, []),
        (0.95, 1e-6, []),  # better than recorded
        (0.875, 1e-6, []),  # one image of 40, a tie on another processor
        (0.8, 1e-6, ["top-1 with 1 crop(s) is 80.00 % on 40 photographs, the manifest has 90.00 % on 40"]),
        (0.95, 1e-2, ["its probabilities differ from torch's by up to 1.0e-02, 1e-05 is allowed"]),
    ],
)
def test_failures_name_the_figures_that_are_worse(top1: float, largest: float, failures: list[str]) -> None:
    expected, measured = (Metrics("flowers", 40, 1, share, 1.0) for share in (0.9, top1))
    parity = Parity("noise", 257, *(Difference(largest, 1e-8, 1.0) for _ in range(3)))
    assert Verification("fp32", parity, 1e-8, (expected,), (measured,)).failures == failures


def without_a_manifest(model: onnx.ModelProto) -> None:
    del model.metadata_props[:]


def with_a_manifest_of_another_kind(model: onnx.ModelProto) -> None:
    model.metadata_props[0].value = json.dumps({"manifest_version": 99})


@pytest.mark.parametrize("model_file", ["int8"], indirect=True)
@pytest.mark.parametrize("command", ["inspect", "verify"])
def test_files_that_are_not_model_files_are_refused(
    command: str, model_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--data", str(tmp_path)] if command == "verify" else []
    cut, empty, text = tmp_path / "cut.onnx", tmp_path / "empty.onnx", tmp_path / "text.onnx"
    cut.write_bytes(model_file.read_bytes()[:5000])
    empty.write_bytes(b"")
    text.write_bytes(b"not a model")
    bare = altered(model_file, tmp_path / "bare.onnx", without_a_manifest)
    newer = altered(model_file, tmp_path / "strange.onnx", with_a_manifest_of_another_kind)
    for file, output in (
        *((path, f"{path} is not a valid ONNX file: ") for path in (cut, empty, text)),
        (bare, f"{bare} has no usable manifest: "),
        (newer, f"{newer} has no usable manifest: manifest_version is 99"),
        (tmp_path / "none.onnx", "none.onnx does not exist"),
    ):
        assert main([command, str(file), *options]) == 1
        assert output in capsys.readouterr().err
