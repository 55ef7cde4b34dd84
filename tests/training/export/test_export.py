"""Exported files compute the same as the checkpoint at every batch size, and have a full manifest."""

from collections import Counter
from dataclasses import asdict
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from onnx import numpy_helper

from contract.manifest import METADATA_KEY, Manifest
from contract.recipe import DEFAULT_RECIPE
from tests.support.runs import CLASSES, MEAN, images, trained
from training.__main__ import main
from training.data.folders import scan_known
from training.data.images import load_pictures
from training.evaluate import evaluate, torch_classifier
from training.export import parity
from training.export.export import export
from training.export.graph import IR_VERSION, PRECISIONS, WEIGHT_LEVELS, build_graph
from training.export.parity import BATCHES, TOLERANCE, classifier_of
from training.model import LRN_K, AlexNet, Variant, weighted_layers
from training.run import checkpoint

# Largest difference of a probability between a file and torch with the file's own weights: the effect of
# computing in less than float32.
TOLERANCE_OF = {"fp32": TOLERANCE, "fp16": 2e-3}
# Largest difference of a probability between an image alone and in a batch, where sums have another order.
BATCH_TOLERANCE = 1e-5


EXPORTS = [*(("kaiming", precision) for precision in PRECISIONS), ("paper", "fp32")]
# int8 rounds activations too; test_quantize compares that with torch.
FLOATS = [export for export in EXPORTS if export[1] != "int8"]
in_floats = pytest.mark.parametrize("exported", FLOATS, ids="-".join, indirect=True)


@pytest.fixture(scope="module", params=EXPORTS, ids="-".join)
def exported(
    request: pytest.FixtureRequest, photographs: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, Path]:
    """Export a checkpoint -> its path and the file."""
    init, precision = request.param
    run = trained(tmp_path_factory.mktemp(init) / "best.pt", init)
    out = tmp_path_factory.mktemp("models") / f"colours-{precision}.onnx"
    with pytest.MonkeyPatch.context() as patch:
        if (init, precision) == ("kaiming", "fp32"):
            patch.setattr(parity, "BATCHES", BATCHES)
        export(run, out, precision, version=3, data=None if precision == "fp32" else photographs)
    return run, out


def precision_of(file: Path) -> str:
    return file.stem.removeprefix("colours-")


def session_of(path: Path) -> ort.InferenceSession:
    return ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])


def stored_weights(path: Path) -> dict[str, np.ndarray]:
    """Return the weights of every layer, widened to float32 by hand."""
    tensors = {t.name: numpy_helper.to_array(t) for t in onnx.load(path).graph.initializer}
    weights = {}
    for layer in ("conv1", "conv2", "conv3", "conv4", "conv5", "fc6", "fc7", "fc8"):
        name = f"{layer}.weight"
        if precision_of(path) == "int8":
            levels = tensors[f"{name}.int8"]
            assert levels.dtype == np.int8
            scale = tensors[f"{name}.scale"].reshape(-1, *[1] * (levels.ndim - 1))
            weights[layer] = levels.astype(np.float32) * scale
        else:
            assert tensors[name].dtype == {"fp32": np.float32, "fp16": np.float16}[precision_of(path)]
            weights[layer] = tensors[name].astype(np.float32)
    return weights


def rounded_model(run: Path, file: Path) -> AlexNet:
    """Build the checkpoint's network with the file's weights; conv1 includes the division by std."""
    state = checkpoint.load(run)
    model = checkpoint.restore_model(state)
    for name, layer in weighted_layers(model):
        factor = state.config.std if name == "conv1" else 1.0
        layer.weight.data = torch.from_numpy(stored_weights(file)[name] * np.float32(factor))
    return model


@in_floats
@pytest.mark.parametrize("count", [1, 2, 3, 32])
def test_the_file_computes_the_same_as_torch(exported: tuple[Path, Path], count: int) -> None:
    run, file = exported
    std = checkpoint.load(run).config.std
    reference = torch_classifier(rounded_model(run, file), MEAN, [std] * 3)
    crops = images(count)
    expected, outputs = reference(crops), classifier_of(onnx.load(file))(crops)
    assert outputs.shape == (count, 4)
    assert outputs.dtype == torch.float32
    assert (outputs - expected).abs().max() <= TOLERANCE_OF[precision_of(file)]
    torch.testing.assert_close(outputs.sum(1), torch.ones(count))
    if count == 32:
        # The answers differ enough for the comparison to mean something.
        assert (outputs.amax(0) - outputs.amin(0)).max() > max(1e-2, 3 * TOLERANCE_OF[precision_of(file)])


def test_weights_are_rounded_only_as_their_format_requires(exported: tuple[Path, Path]) -> None:
    run, file = exported
    state = checkpoint.load(run)
    kind = precision_of(file)
    for name, layer in weighted_layers(checkpoint.restore_model(state)):
        assert layer.weight is not None
        values = layer.weight.detach().numpy() / (state.config.std if name == "conv1" else 1.0)
        error = np.abs(stored_weights(file)[name] - values)
        axes = tuple(range(1, values.ndim))
        bound = {
            "fp32": np.abs(values) * 2.0**-23,
            "fp16": np.maximum(np.abs(values) * 2.0**-11, 2.0**-25),
            "int8": np.abs(values).max(axes, keepdims=True) / (2 * WEIGHT_LEVELS) * 1.001,
        }[kind]
        assert (error <= bound).all(), name
        if kind != "fp32":
            assert error.max() > 0, name


def test_results_are_independent_of_the_batch(exported: tuple[Path, Path]) -> None:
    classify, crops = classifier_of(onnx.load(exported[1])), images(32)
    together = classify(crops)
    exclusive = torch.cat([classify(crops[i : i + 1]) for i in range(32)])
    assert (together - exclusive).abs().max() <= BATCH_TOLERANCE


def test_the_graph_is_one_file_of_opset_17_with_a_dynamic_batch(exported: tuple[Path, Path]) -> None:
    _run, file = exported
    model = onnx.load(file, load_external_data=False)
    onnx.checker.check_model(model, full_check=True)
    assert [(o.domain, o.version) for o in model.opset_import] == [("", 17)]
    assert model.ir_version == IR_VERSION == 8
    assert not any(t.external_data for t in model.graph.initializer)
    assert list(file.parent.iterdir()) == [file]
    (taken,) = model.graph.input
    assert taken.name == "images"
    assert taken.type.tensor_type.elem_type == onnx.TensorProto.UINT8
    batch, *rest = taken.type.tensor_type.shape.dim
    assert batch.dim_param == "N"
    assert [d.dim_value for d in rest] == [224, 224, 3]
    given = {o.name: o.type.tensor_type for o in model.graph.output}
    assert next(iter(given)) == "probabilities"
    for tensor in given.values():
        assert tensor.elem_type == onnx.TensorProto.FLOAT
        assert tensor.shape.dim[0].dim_param == "N"
    shapes = {output.name: output.shape for output in session_of(file).get_outputs()}
    assert shapes == {"probabilities": ["N", 4], "fc7": ["N", 328], "conv5": ["N", 20, 13, 13]}


@in_floats
def test_fc7_and_conv5_are_the_outputs_of_their_layers(exported: tuple[Path, Path]) -> None:
    run, file = exported
    model = rounded_model(run, file).eval()
    hidden: dict[str, torch.Tensor] = {}
    model.conv5.register_forward_hook(lambda _layer, _inputs, output: hidden.update(conv5=output.relu()))
    model.fc8.register_forward_pre_hook(lambda _layer, inputs: hidden.update(fc7=inputs[0]))
    torch_classifier(model, MEAN, checkpoint.load(run).std)(images(2))
    assert hidden.keys() == {"conv5", "fc7"}
    for name, expected in hidden.items():
        (outputs,) = session_of(file).run([name], {"images": images(2).numpy()})
        torch.testing.assert_close(torch.from_numpy(outputs), expected.contiguous(), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("lrn", [True, False])
def test_only_fp16_has_a_node_for_each_normalisation(precision: str, lrn: bool) -> None:
    network = AlexNet(4, 0.02, variant=Variant(lrn=lrn))
    kinds = Counter(n.op_type for n in build_graph(network, MEAN, [1.0] * 3, precision).graph.node)
    assert kinds["LRN"] == (2 if lrn and precision == "fp16" else 0)
    assert kinds["AveragePool"] == kinds["Div"] == (2 if lrn and precision != "fp16" else 0)


def test_the_node_normalises_as_the_chain_does() -> None:
    """Also where the squares of the activations would be infinite in float16."""
    network, pooled = AlexNet(4, 0.08, "kaiming"), {}
    weights = network.conv1.weight
    weights.data = (10 * weights.data).half().float()  # only activations are rounded
    for precision in ("fp32", "fp16"):
        model = build_graph(network, [128.0] * 3, [1.0] * 3, precision)
        taps = ["conv1.activation", "conv1.pool"]
        model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in taps)
        session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
        activation, pooled[precision] = session.run(taps, {"images": images(4).numpy()})
    assert activation.max() > 1000
    assert activation.max() / pooled["fp32"].max() > 10 * LRN_K**0.75, "the sum of squares matters"
    np.testing.assert_allclose(pooled["fp16"], pooled["fp32"], rtol=2e-3, atol=2e-3)


def test_the_manifest_describes_the_run(exported: tuple[Path, Path]) -> None:
    run, file = exported
    (entry,) = onnx.load(file).metadata_props
    assert entry.key == METADATA_KEY
    manifest, state = Manifest.from_json(entry.value), checkpoint.load(run)
    assert (manifest.name, manifest.version) == (file.stem, 3)
    assert manifest.precision == precision_of(file)
    assert manifest.classes == CLASSES
    assert manifest.recipe == DEFAULT_RECIPE
    assert list(manifest.mean) == MEAN
    assert manifest.std == (state.config.std,) * 3
    assert manifest.architecture["width"] == 0.08
    assert manifest.training["config"] == asdict(state.config)
    assert manifest.training["epochs"] == 3
    assert manifest.training["data"] == "colours"
    measured = [(m.images, m.crops) for m in manifest.metrics]
    if manifest.precision == "fp32":
        assert measured == [(40, 1)]
        assert (manifest.metrics[0].top1, manifest.metrics[0].top5) == (0.75, 1.0)
    else:
        assert measured == [(6, 1), (6, 10)]
    record = manifest.parity
    assert record["on"] == ("noise" if manifest.precision == "fp32" else "photographs")
    if (state.config.weight_init, manifest.precision) == ("kaiming", "fp32"):
        assert record["batches"] == [1, 2, 3, 32, 257] == list(BATCHES)
        assert record["images"] == 257
    for pair in ("file_torch64", "file_torch32", "torch32_torch64"):
        assert 0 < record[pair]["mean"] < record[pair]["largest"]
        assert 0.9 < record[pair]["agreement"] <= 1
    assert record["torch32_torch64"]["largest"] <= TOLERANCE == 1e-5
    assert (record["file_torch64"]["largest"] <= TOLERANCE) == (manifest.precision == "fp32")
    assert manifest.opset == 17


def test_with_data_the_exported_file_is_measured(
    photographs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = trained(tmp_path / "best.pt")
    out = tmp_path / "models" / "colours.onnx"
    out.parent.mkdir()
    arguments = ["export", str(run), "--out", str(out), "--data", str(photographs), "--precision", "int8"]
    assert main(arguments) == 0
    assert "4 classes, int8" in capsys.readouterr().out
    (entry,) = onnx.load(out).metadata_props
    one, ten = Manifest.from_json(entry.value).metrics
    split, _reading = load_pictures(scan_known(photographs / "val", CLASSES).samples, DEFAULT_RECIPE, "val")
    for metrics, crops in ((one, 1), (ten, 10)):
        expected = evaluate(classifier_of(onnx.load(out)), split, DEFAULT_RECIPE, crops)
        assert (metrics.images, metrics.crops) == (6, crops)
        assert (metrics.top1, metrics.top5) == (expected.top1, expected.top5)
