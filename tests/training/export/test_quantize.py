"""int8 and fp16: the file equals torch with the same rounding; a file that loses accuracy is refused."""

from dataclasses import replace
from math import comb
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
import torch.nn.functional as F
from onnx import numpy_helper
from torch import Tensor

from tests.support.drawing.pictures import draw_classes
from tests.support.runs import COLOURS, MEAN, trained
from training.__main__ import main
from training.data.folders import scan_known
from training.data.images import read_digests
from training.errors import DataError
from training.export.graph import PIXELS, Rounding, build_graph
from training.export.parity import classifier_of, difference, max_changed
from training.export.quantize import calibrate, quantise, rounding_of
from training.export.verify import read_model, restore_network
from training.model import AlexNet, weighted_layers
from training.run import checkpoint
from training.run.held_out import load_some_training, record_of

LAYERS = [*(f"conv{i}" for i in range(1, 6)), "fc6", "fc7", "fc8"]
Network = tuple[AlexNet, list[float], dict[str, float]]


@pytest.fixture(scope="module")
def crops() -> Tensor:
    """Make blurred noise (16, 224, 224, 3) uint8."""
    draw = torch.Generator().manual_seed(5)
    coarse = torch.rand(16, 3, 6, 6, generator=draw) * 255
    pixels = F.interpolate(coarse, size=(224, 224), mode="bilinear")
    return pixels.permute(0, 2, 3, 1).round().to(torch.uint8).contiguous()


@pytest.fixture(scope="module")
def network(crops: Tensor, tmp_path_factory: pytest.TempPathFactory) -> Network:
    """Make a network -> it, its std, and the steps of its activations."""
    state = checkpoint.load(trained(tmp_path_factory.mktemp("run") / "best.pt"))
    model = checkpoint.restore_model(state).eval()
    return model, state.std, calibrate(model, MEAN, state.std, crops)


def rounded(x: Tensor, step: float | None, zero: int = 0) -> Tensor:
    return x if step is None else (torch.round(x / step).clamp(-zero, 255 - zero)) * step


def weights_of(graph: onnx.ModelProto) -> dict[str, Tensor]:
    """Return every weight and bias of the file, widened to float32 by hand."""
    tensors = {t.name: numpy_helper.to_array(t) for t in graph.graph.initializer}
    weights = {}
    for name in LAYERS:
        levels = tensors[f"{name}.weight.int8"]
        scale = tensors[f"{name}.weight.scale"].reshape(-1, *[1] * (levels.ndim - 1))
        weights[f"{name}.weight"] = torch.from_numpy(levels * scale)
        if f"{name}.bias.int32" in tensors:
            bias = tensors[f"{name}.bias.int32"] * tensors[f"{name}.bias.scale"].astype(np.float64)
        else:
            bias = tensors[f"{name}.bias"]
        weights[f"{name}.bias"] = torch.from_numpy(bias.astype(np.float32))
    return weights


def by_hand(model: AlexNet, graph: onnx.ModelProto, rounding: Rounding, crops: Tensor) -> Tensor:
    """Run the paper's network in float32, rounding at the same points as the int8 file."""
    w, steps = weights_of(graph), rounding.steps
    x = crops.permute(0, 3, 1, 2) - torch.tensor(MEAN)[:, None, None]
    zero = round(max(MEAN) / steps[PIXELS]) if PIXELS in steps else 0
    x = rounded(x, steps.get(PIXELS), zero)
    for name, layer in weighted_layers(model):
        if name.startswith("fc"):
            x = F.linear(x.flatten(1), w[f"{name}.weight"], w[f"{name}.bias"])
        else:
            assert isinstance(layer, torch.nn.Conv2d)
            stride, padding = layer.stride[0], int(layer.padding[0])
            x = F.conv2d(x, w[f"{name}.weight"], w[f"{name}.bias"], stride, padding, groups=layer.groups)
        if name == "fc8":
            break
        x = rounded(x.relu(), steps.get(name))
        if name in {"conv1", "conv2"}:
            x = F.local_response_norm(x, 5, alpha=5e-4, beta=0.75, k=2)
            x = rounded(x, steps.get(f"{name}.norm"))
        if name in {"conv1", "conv2", "conv5"}:
            x = F.max_pool2d(x, 3, 2)
    return x.softmax(1)


@pytest.mark.parametrize(
    "integer", [LAYERS, [], ["conv1"], ["conv2"], ["conv3", "fc6"], LAYERS[1:], LAYERS[:-1]], ids="-".join
)
@torch.no_grad()
def test_int8_file_equals_torch_with_the_same_rounding(
    network: Network, crops: Tensor, integer: list[str]
) -> None:
    model, std, steps = network
    rounding = rounding_of(model, integer, steps)
    graph = build_graph(model, MEAN, std, "int8", rounding)
    expected, probabilities = by_hand(model, graph, rounding, crops), classifier_of(graph)(crops)
    # A value between two levels may be rounded either way, which changes the later layers.
    gap = difference(probabilities, expected)
    unrounded = classifier_of(build_graph(model, MEAN, std, "fp32"))(crops)
    assert gap.mean < (0.2 * difference(probabilities, unrounded).mean if integer else 1e-6)
    assert gap.largest < (0.05 if integer else 1e-5)


def test_two_products_of_any_layer_fit_into_16_bits(network: Network) -> None:
    """Processors without VNNI add them in 16 bits: with 127 levels, their results differed."""
    model, std, steps = network
    for integer in (LAYERS, ["conv2", "fc7"]):
        graph = build_graph(model, MEAN, std, "int8", rounding_of(model, integer, steps))
        tensors = {t.name: numpy_helper.to_array(t) for t in graph.graph.initializer}
        highest = {name: int(np.abs(tensors[f"{name}.weight.int8"].astype(int)).max()) for name in LAYERS}
        assert all(2 * 255 * highest[name] < 2**15 for name in integer)
        assert all(highest[name] >= 64 for name in LAYERS)  # and no level is unused


@torch.no_grad()
def test_the_largest_products_do_not_saturate(network: Network, crops: Tensor) -> None:
    """Every weight of fc7 has the largest level, and the activations before it reach 255 levels."""
    model, std, steps = network
    loud = AlexNet(4, 0.08).eval()
    loud.load_state_dict(model.state_dict())
    loud.fc6.bias.fill_(1.0)
    loud.fc7.weight.copy_(torch.where(loud.fc7.weight > 0, 1.0, -1.0))
    loud.fc7.weight[0] = 1.0
    loud.fc8.weight.zero_()
    loud.fc8.weight[:2, 0] = torch.tensor([1.0, -1.0]) / loud.fc7.in_features
    rounding = rounding_of(loud, LAYERS, steps | {"fc6": 1 / 255, "fc7": loud.fc7.in_features / 255})
    graph = build_graph(loud, MEAN, std, "int8", rounding)
    session = ort.InferenceSession(graph.SerializeToString(), providers=["CPUExecutionProvider"])
    features, probabilities = session.run(["fc7", "probabilities"], {"images": crops.numpy()})
    assert np.asarray(features)[:, 0].max() > 0.5 * loud.fc7.in_features
    # 64 steps of 1/64 are 1, so only the activations are rounded.
    assert difference(torch.from_numpy(probabilities), by_hand(loud, graph, rounding, crops)).largest < 1e-2


def test_layers_in_8_bits_run_on_integers(network: Network, crops: Tensor, tmp_path: Path) -> None:
    """ONNX Runtime recognises the pattern: no layer is left that multiplies in float32."""
    model, std, steps = network
    onnx.save(build_graph(model, MEAN, std, "int8", rounding_of(model, LAYERS, steps)), tmp_path / "n.onnx")
    options = ort.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimised.onnx")
    options.log_severity_level = 3
    ort.InferenceSession(str(tmp_path / "n.onnx"), options, providers=["CPUExecutionProvider"])
    kinds = [node.op_type for node in onnx.load(tmp_path / "optimised.onnx").graph.node]
    assert kinds.count("QLinearConv") == 5
    assert kinds.count("QGemm") == 3
    assert kinds.count("NhwcMaxPool") == 3
    assert not {"Conv", "Gemm", "FusedConv", "MatMul"} & set(kinds)


def test_steps_cover_the_activations_except_outliers(network: Network, crops: Tensor) -> None:
    model, std, steps = network
    assert steps[PIXELS] * 255 == pytest.approx(max(MEAN) + 255 - min(MEAN))
    pixels = (crops.permute(0, 3, 1, 2) - torch.tensor(MEAN)[:, None, None]) / torch.tensor(std)[
        :, None, None
    ]
    with torch.no_grad():
        first = model.conv1(pixels).relu()
    assert 0.2 * first.max() / 255 <= steps["conv1"] <= first.max() / 255 * 1.001
    errors = {f: float(((rounded(first, steps["conv1"] * f) - first) ** 2).mean()) for f in (0.5, 1, 2)}
    assert errors[1] <= min(errors.values()) * 1.05
    assert set(steps) == {PIXELS, *LAYERS[:-1], "conv1.norm", "conv2.norm"}


def test_int8_keeps_a_zero_kernel_and_a_large_bias(network: Network, crops: Tensor) -> None:
    model, std, steps = network
    changed = AlexNet(4, 0.08).eval()
    assert changed.conv2.bias is not None
    assert changed.conv3.bias is not None
    changed.load_state_dict(model.state_dict())
    with torch.no_grad():
        changed.conv2.weight[1], changed.conv2.bias[1] = 0, 3.0
        changed.conv3.weight[2] *= 1e-12
        changed.conv3.bias[2] = 3.0
    rounding = rounding_of(changed, LAYERS, steps)
    graph = build_graph(changed, MEAN, std, "int8", rounding)
    stored = weights_of(graph)
    assert (stored["conv2.weight"][1] == 0).all()
    torch.testing.assert_close(stored["conv2.bias"][1], torch.tensor(3.0), rtol=1e-6, atol=1e-2)
    torch.testing.assert_close(stored["conv3.bias"][2], torch.tensor(3.0), rtol=1e-6, atol=0)
    with torch.no_grad():
        expected = by_hand(changed, graph, rounding, crops)
    assert difference(classifier_of(graph)(crops), expected).mean < 2e-4


def test_the_layer_that_loses_most_goes_back_to_float(network: Network, crops: Tensor) -> None:
    """One channel of conv3 is so large that 255 levels leave none for the others; conv4 ignores it."""
    model, std, _steps = network
    spoiled = AlexNet(4, 0.08).eval()
    assert spoiled.conv3.bias is not None
    spoiled.load_state_dict(model.state_dict())
    with torch.no_grad():
        spoiled.conv3.bias[0] = 1e5
        spoiled.conv4.weight[:, 0] = 0
    unrounded = classifier_of(build_graph(spoiled, MEAN, std, "fp32"))(crops)
    losses = []

    def passes(graph: onnx.ModelProto) -> bool:
        losses.append(difference(classifier_of(graph)(crops), unrounded).mean)
        return losses[-1] < 0.01

    result = quantise(spoiled, MEAN, std, crops, passes)
    assert result is not None
    graph, floating = result
    assert set(floating) == {"conv3", "conv4"}
    assert losses[0] > 0.01 > losses[-1] == difference(classifier_of(graph)(crops), unrounded).mean
    assert len(losses) == len(floating) + 1
    assert quantise(spoiled, MEAN, std, crops, lambda _graph: False) is None


def test_the_weights_of_an_int8_file_can_be_restored(tmp_path: Path, photographs: Path) -> None:
    run, out = trained(tmp_path / "best.pt"), tmp_path / "net.onnx"
    assert (
        main(["export", str(run), "--out", str(out), "--precision", "int8", "--data", str(photographs)])
        == 0
    )
    graph, manifest = read_model(out)
    rebuilt = restore_network(graph, manifest).state_dict()
    for name, values in weights_of(graph).items():
        torch.testing.assert_close(rebuilt[name], values, rtol=1e-6, atol=0)
    acceptance = manifest.parity["acceptance"]
    assert acceptance["images"] == 6
    assert acceptance["agreement"] == 1
    assert acceptance["top1_fp32"] - acceptance["top1"] <= 0.005


@pytest.mark.parametrize(("images", "allowed"), [(6, 0), (40, 1), (100, 2), (255, 5), (1000, 15)])
def test_max_changed_follows_the_binomial_distribution(images: int, allowed: int) -> None:
    """If one answer in a hundred changes, exceeding the limit is rare."""

    def at_least(count: int) -> float:
        fewer = range(count)
        return 1 - sum(comb(images, k) * 0.01**k * 0.99 ** (images - k) for k in fewer)

    assert max_changed(images) == allowed
    assert at_least(allowed + 1) < 0.1 < at_least(max(0, allowed - 1))


def test_a_file_that_loses_too_much_accuracy_is_not_written(
    tmp_path: Path, photographs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A weight beyond the range of float16 makes every probability NaN."""
    run, out = trained(tmp_path / "best.pt"), tmp_path / "net.onnx"
    state = checkpoint.load(run)
    dict(state.model)["fc7.weight"][3, 5] = 1e6
    checkpoint.save(state, run)
    out.write_bytes(b"the old file")
    options = ["--precision", "fp16", "--data", str(photographs)]
    assert main(["export", str(run), "--out", str(out), *options]) == 1
    output = capsys.readouterr().err
    assert "net.onnx is not written: in fp16 top-1 is " in output
    assert "at most 0.5 points less and 0 changed answers are allowed" in output
    assert out.read_bytes() == b"the old file"
    assert {path.name for path in tmp_path.iterdir()} == {"best.pt", "net.onnx"}


def test_unsupported_precisions_are_refused_with_the_remedy(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = trained(tmp_path / "best.pt", activation="tanh")
    arguments = ["export", str(run), "--out", str(tmp_path / "net.onnx"), "--precision"]
    assert main([*arguments, "int8"]) == 1
    assert "has activation tanh; int8 needs relu; use fp32 or fp16" in capsys.readouterr().err
    assert main([*arguments, "fp16"]) == 1
    assert (
        "--precision fp16 needs --data, to measure what it loses: pass the training folder"
        in capsys.readouterr().err
    )
    assert not (tmp_path / "net.onnx").exists()


def test_calibration_takes_training_images_only(tmp_path: Path) -> None:
    data, run = tmp_path / "flowers", checkpoint.load(trained(tmp_path / "best.pt"))
    draw_classes(data, COLOURS, 5)
    run = replace(run, classes=tuple(COLOURS))
    digests = read_digests(scan_known(data, run.classes).samples, "all").digests
    run.held_out, run.trained_on = {"names": [], "digests": digests[:10]}, digests[10:]
    squares = load_some_training(data.rename(tmp_path / "elsewhere"), record_of(run), 256)
    assert squares.shape == (5, 256, 256, 3)
    assert load_some_training(tmp_path / "elsewhere", record_of(run), 4).shape[0] == 4
    run.trained_on = digests[:0]
    with pytest.raises(DataError, match="holds none of the photographs that the run was trained on"):
        load_some_training(tmp_path / "elsewhere", record_of(run), 4)
