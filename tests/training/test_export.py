"""The exported file: equal to the checkpoint at every batch size, complete, or not written at all."""

from dataclasses import asdict
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from onnx import numpy_helper
from torch import Tensor

from contract.manifest import METADATA_KEY, Manifest
from contract.recipe import DEFAULT_RECIPE
from tests.training.conftest import CLASSES, MEAN, trained
from training import checkpoint
from training.__main__ import main
from training.data import find_samples, load_split
from training.evaluate import evaluate, torch_classifier
from training.export import BATCHES, TOLERANCE, ExportError, export, largest_difference, session_classifier
from training.graph import IR_VERSION, build_graph
from training.model import AlexNet, weighted_layers

STORED = ["fp32", "fp16", "int8"]
# Of a probability, between an image alone and the same in a batch: other shapes, another order of sums.
BATCH_TOLERANCE = 1e-5


@pytest.fixture(
    scope="module",
    params=[("kaiming", "fp32"), ("kaiming", "fp16"), ("kaiming", "int8"), ("paper", "fp32")],
    ids="-".join,
)
def exported(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """-> the checkpoint and the file."""
    init, weights = request.param
    run = trained(tmp_path_factory.mktemp(init) / "best.pt", init)
    out = tmp_path_factory.mktemp("models") / f"colours-{weights}.onnx"
    export(run, out, weights, version=3)
    return run, out


def images(count: int, seed: int = 0) -> Tensor:
    """Blurred noise, so that the answers differ."""
    draw = torch.Generator().manual_seed(seed)
    coarse = torch.rand(count, 3, 6, 6, generator=draw) * 255
    pixels = torch.nn.functional.interpolate(coarse, size=(224, 224), mode="bilinear")
    return pixels.permute(0, 2, 3, 1).round().to(torch.uint8).contiguous()


def session_of(path: Path) -> ort.InferenceSession:
    return ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])


def stored_weights(path: Path) -> dict[str, np.ndarray]:
    """layer -> its weights as the file holds them, widened by hand."""
    tensors = {t.name: numpy_helper.to_array(t) for t in onnx.load(path).graph.initializer}
    weights = {}
    for layer in ("conv1", "conv2", "conv3", "conv4", "conv5", "fc6", "fc7", "fc8"):
        name = f"{layer}.weight"
        if name in tensors:
            weights[layer] = tensors[name]
        elif f"{name}.fp16" in tensors:
            assert tensors[f"{name}.fp16"].dtype == np.float16
            weights[layer] = tensors[f"{name}.fp16"].astype(np.float32)
        else:
            assert tensors[f"{name}.int8"].dtype == np.int8
            weights[layer] = tensors[f"{name}.int8"].astype(np.float32) * tensors[f"{name}.scale"]
    return weights


def rounded_model(run: Path, file: Path) -> AlexNet:
    """The checkpoint's network with the weights that the file holds; conv1's hold the deviation too."""
    state = checkpoint.load(run)
    model = checkpoint.restore_model(state)
    for name, layer in weighted_layers(model):
        factor = state.config.std if name == "conv1" else 1.0
        layer.weight.data = torch.from_numpy(stored_weights(file)[name] * np.float32(factor))
    return model


@pytest.mark.parametrize("count", [1, 2, 3, 32])
def test_the_file_answers_as_torch_does(exported: tuple[Path, Path], count: int) -> None:
    run, file = exported
    std = checkpoint.load(run).config.std
    reference = torch_classifier(rounded_model(run, file), MEAN, [std] * 3)
    crops = images(count)
    expected, found = reference(crops), session_classifier(session_of(file))(crops)
    assert found.shape == (count, 4)
    assert found.dtype == torch.float32
    assert (found - expected).abs().max() <= TOLERANCE == 1e-5
    torch.testing.assert_close(found.sum(1), torch.ones(count))
    if count == 32:
        assert (found.amax(0) - found.amin(0)).max() > 1e-2  # or equality would show nothing


def test_weights_are_rounded_by_no_more_than_their_format_rounds(exported: tuple[Path, Path]) -> None:
    run, file = exported
    state = checkpoint.load(run)
    kind = file.stem.removeprefix("colours-")
    for name, layer in weighted_layers(checkpoint.restore_model(state)):
        assert layer.weight is not None
        values = layer.weight.detach().numpy() / (state.config.std if name == "conv1" else 1.0)
        error = np.abs(stored_weights(file)[name] - values)
        axes = tuple(range(1, values.ndim))
        bound = {
            "fp32": np.abs(values) * 2.0**-23,
            "fp16": np.maximum(np.abs(values) * 2.0**-11, 2.0**-25),
            "int8": np.abs(values).max(axes, keepdims=True) / 254 * 1.001,
        }[kind]
        assert (error <= bound).all(), name
        if kind != "fp32":
            assert error.max() > 0, name


def test_a_batch_answers_as_its_images_alone_do(exported: tuple[Path, Path]) -> None:
    classify, crops = session_classifier(session_of(exported[1])), images(32)
    together = classify(crops)
    alone = torch.cat([classify(crops[i : i + 1]) for i in range(32)])
    assert (together - alone).abs().max() <= BATCH_TOLERANCE


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


def test_fc7_and_conv5_are_what_their_names_say(exported: tuple[Path, Path]) -> None:
    run, file = exported
    model = rounded_model(run, file).eval()
    hidden: dict[str, Tensor] = {}
    model.conv5.register_forward_hook(lambda _layer, _inputs, output: hidden.update(conv5=output.relu()))
    model.fc8.register_forward_pre_hook(lambda _layer, inputs: hidden.update(fc7=inputs[0]))
    torch_classifier(model, MEAN, checkpoint.load(run).std)(images(2))
    for name, expected in hidden.items():
        (found,) = session_of(file).run([name], {"images": images(2).numpy()})
        torch.testing.assert_close(torch.from_numpy(found), expected.contiguous(), rtol=1e-4, atol=1e-4)


def test_the_manifest_inside_is_the_run_s(exported: tuple[Path, Path]) -> None:
    run, file = exported
    (entry,) = onnx.load(file).metadata_props
    assert entry.key == METADATA_KEY
    manifest, state = Manifest.from_json(entry.value), checkpoint.load(run)
    assert (manifest.name, manifest.version) == (file.stem, 3)
    assert manifest.weights == file.stem.removeprefix("colours-")
    assert manifest.classes == CLASSES
    assert manifest.recipe == DEFAULT_RECIPE
    assert list(manifest.mean) == MEAN
    assert manifest.std == (state.config.std,) * 3
    assert manifest.architecture["width"] == 0.08
    assert manifest.training["config"] == asdict(state.config)
    assert manifest.training["epochs"] == 3
    assert manifest.training["data"] == "colours"
    (metrics,) = manifest.metrics
    assert (metrics.images, metrics.crops, metrics.top1, metrics.top5) == (40, 1, 0.75, 1.0)
    assert 0 < manifest.parity["max_difference"] <= TOLERANCE
    assert manifest.parity["batches"] == list(BATCHES)
    assert {1, 2, 3, 32} <= set(BATCHES)
    assert manifest.opset == 17


def test_with_data_the_file_itself_is_measured(
    photographs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = trained(tmp_path / "best.pt")
    out = tmp_path / "models" / "colours.onnx"
    out.parent.mkdir()
    arguments = ["export", str(run), "--out", str(out), "--data", str(photographs), "--weights", "int8"]
    assert main(arguments) == 0
    assert "4 classes, int8 weights" in capsys.readouterr().out
    (entry,) = onnx.load(out).metadata_props
    one, ten = Manifest.from_json(entry.value).metrics
    _classes, _train, samples = find_samples(photographs, 0.2, 0)
    samples = [(path, CLASSES.index(path.parent.name)) for path, _ in samples]
    split = load_split(samples, DEFAULT_RECIPE, "val")
    for metrics, crops in ((one, 1), (ten, 10)):
        expected = evaluate(session_classifier(session_of(out)), split, DEFAULT_RECIPE, crops)
        assert (metrics.images, metrics.crops) == (6, crops)
        assert (metrics.top1, metrics.top5) == (expected.top1, expected.top5)


@pytest.mark.parametrize("weights", STORED)
def test_one_wrong_weight_is_a_difference(weights: str, tmp_path: Path) -> None:
    """The check that stands between a wrong graph and its name."""
    state = checkpoint.load(trained(tmp_path / "best.pt"))
    model = checkpoint.restore_model(state)
    onnx.save(build_graph(model, MEAN, state.std, weights), tmp_path / "a.onnx")
    found = session_classifier(session_of(tmp_path / "a.onnx"))
    reference = torch_classifier(model, MEAN, state.std)
    assert largest_difference(reference, found, None, 3) <= TOLERANCE
    with torch.no_grad():
        model.conv3.weight[0, 0, 1, 1] += 0.5
    assert largest_difference(reference, found, None, 3) > TOLERANCE
    with torch.no_grad():
        model.conv3.weight[0, 0, 1, 1] = torch.nan
    assert largest_difference(reference, found, None, 3) > TOLERANCE


@pytest.mark.parametrize(("weights", "old"), [("fp32", b"the old file"), ("int8", None)])
def test_a_mismatch_leaves_no_file_and_keeps_the_old_one(
    weights: str, old: bytes | None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A checkpoint that diverged: NaN equals nothing, not even itself."""
    run, out = trained(tmp_path / "best.pt"), tmp_path / "models" / "colours.onnx"
    out.parent.mkdir()
    if old is not None:
        out.write_bytes(old)
    state = checkpoint.load(run)
    dict(state.model)["fc7.weight"][3, 5] = torch.nan
    checkpoint.save(state, run)
    assert main(["export", str(run), "--out", str(out), "--weights", weights]) == 1
    assert "colours.onnx is not written: its probabilities differ" in capsys.readouterr().err
    assert {path.name: path.read_bytes() for path in out.parent.iterdir()} == (
        {} if old is None else {"colours.onnx": old}
    )


def test_a_name_that_cannot_be_served_leaves_no_file(tmp_path: Path) -> None:
    run = trained(tmp_path / "best.pt")
    (tmp_path / "models").mkdir()
    with pytest.raises(ExportError, match="name is 'My Model'"):
        export(run, tmp_path / "models" / "My Model.onnx", data=tmp_path / "not looked at yet")
    with pytest.raises(ExportError, match="version is 0"):
        export(run, tmp_path / "models" / "mine.onnx", version=0)
    assert list((tmp_path / "models").iterdir()) == []


def test_a_network_of_smaller_images_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = trained(tmp_path / "best.pt", image_size=112)
    assert main(["export", str(run), "--out", str(tmp_path / "small.onnx")]) == 1
    said = capsys.readouterr().err
    assert "image_size 112" in said
    assert "--weights" in said
    assert not (tmp_path / "small.onnx").exists()


def test_a_kernel_of_zeros_survives_int8(tmp_path: Path) -> None:
    state = checkpoint.load(trained(tmp_path / "best.pt"))
    model = checkpoint.restore_model(state)
    model.conv2.weight.data[1] = 0
    graph = build_graph(model, MEAN, state.std, "int8")
    assert torch.isfinite(model.conv2.weight).all()
    assert (model.conv2.weight[1] == 0).all()
    onnx.save(graph, tmp_path / "zeros.onnx")
    found = session_classifier(session_of(tmp_path / "zeros.onnx"))(images(1))
    reference = torch_classifier(model, MEAN, state.std)
    assert (found - reference(images(1))).abs().max() <= TOLERANCE
