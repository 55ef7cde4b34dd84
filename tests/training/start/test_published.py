"""Imported torchvision weights compute the same, and can be served and trained on."""

from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest
import torch
from torch import nn

from contract.picture import decode
from contract.preprocess import centre_crop
from contract.recipe import TORCHVISION_RECIPE
from tests.support.drawing.pictures import encode, scene
from tests.support.torchvision_alexnet import TorchvisionAlexNet
from training.__main__ import main
from training.errors import CheckpointError
from training.export.verify import read_model
from training.run import checkpoint
from training.start.download import digest
from training.start.published import imagenet_classes, to_alexnet


@pytest.fixture(scope="module")
def weights() -> dict[str, Any]:
    """Make weights with the published names and shapes, whose answers differ by picture."""
    torch.manual_seed(0)
    state = TorchvisionAlexNet().state_dict()
    nn.init.normal_(state["classifier.6.weight"], std=5)
    return state


@pytest.fixture(scope="module")
def imported(weights: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("imported")
    torch.save(weights, folder / "alexnet.pth")
    command = ["import", "--from", "torchvision", str(folder / "alexnet.pth"), "--out", str(folder / "run")]
    with pytest.MonkeyPatch.context() as patch:
        # Treated as the published file; tests/documents/test_readme.py imports another one.
        patch.setattr("training.start.published.SHA256", digest(folder / "alexnet.pth"))
        assert main(command) == 0
    return folder / "run"


@pytest.mark.slow
def test_the_model_file_computes_the_same_as_torchvision(weights: dict[str, Any], imported: Path) -> None:
    net = TorchvisionAlexNet()
    net.load_state_dict(weights)
    if find_spec("torchvision"):  # itself, where it is installed
        itself = import_module("torchvision").models.alexnet()
        itself.load_state_dict(weights)
        net.features, net.classifier = itself.features.eval(), itself.classifier.eval()
    session = ort.InferenceSession(imported / "imagenet.onnx", providers=["CPUExecutionProvider"])
    answers = []
    for seed in range(3):
        picture = decode(encode(scene(320, 280, seed=seed), "PNG"), TORCHVISION_RECIPE, 10**6)
        crop = centre_crop(picture, TORCHVISION_RECIPE).copy()
        (probabilities,) = session.run(["probabilities"], {"images": crop[None]})
        answers.append(np.asarray(probabilities)[0])
        expected = net.probabilities(torch.from_numpy(crop))
        assert np.abs(answers[-1] - expected.numpy()).max() < 1e-5
    assert np.abs(answers[0] - answers[1]).max() > 1e-3, (
        "the answers differ enough for the comparison to mean something"
    )


@pytest.mark.slow
def test_the_manifest_names_the_origin_and_the_published_accuracy(imported: Path) -> None:
    _model, manifest = read_model(imported / "imagenet.onnx")
    assert manifest.recipe == TORCHVISION_RECIPE
    assert manifest.mean == pytest.approx((123.675, 116.28, 103.53))
    assert manifest.std == pytest.approx((58.395, 57.12, 57.375))
    assert (len(manifest.classes), manifest.classes[0]) == (1000, "tench")
    (metrics,) = manifest.metrics
    assert (metrics.images, metrics.top1, metrics.top5) == (50_000, 0.56522, 0.79066)
    assert metrics.data == "ImageNet-1k, by its publisher's account (validation)"
    assert manifest.training["source"].startswith("alexnet.pth, SHA-256 ")
    assert manifest.training["config"] == {}, "it was not trained here"
    assert manifest.parity["file_torch64"]["largest"] <= 1e-5


@pytest.mark.slow
def test_an_imported_run_can_be_fine_tuned_with_a_new_last_layer(
    imported: Path, photographs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--recipe", "paper", "--epochs", "1", "--batch-size", "4", "--lr", "1e-12"]
    options += ["--weights", str(imported), "--device", "cpu", "--keep", "1"]
    assert main(["train", "--data", str(photographs), "--out", str(tmp_path), *options]) == 0
    assert "afresh: fc8" in capsys.readouterr().out
    ours, source = checkpoint.load(tmp_path / "last.pt"), checkpoint.load(imported / "last.pt")
    assert ours.model["fc8.weight"].shape == (3, 4096)
    assert (ours.mean, ours.std) == (source.mean, source.std)
    torch.testing.assert_close(ours.model["conv1.weight"], source.model["conv1.weight"], rtol=0, atol=1e-6)


@pytest.mark.slow
def test_importing_a_fine_tuned_network_keeps_its_classes(weights: dict[str, Any], tmp_path: Path) -> None:
    fine_tuned = {
        **weights,
        "classifier.6.bias": torch.zeros(3),
        "classifier.6.weight": torch.zeros(3, 4096),
    }
    torch.save({"model": {f"module.{k}": v for k, v in fine_tuned.items()}}, tmp_path / "three.pth")
    command = ["import", "--from", "torchvision", str(tmp_path / "three.pth"), "--out"]
    (tmp_path / "labels.txt").write_text("ant\nbee\ncat\n")
    for out, options, classes in (
        ("named", ["--labels", str(tmp_path / "labels.txt")], ("ant", "bee", "cat")),
        ("numbered", [], ("class0", "class1", "class2")),
    ):
        assert main([*command, str(tmp_path / out), *options]) == 0
        _model, manifest = read_model(tmp_path / out / "imported.onnx")
        assert (manifest.classes, manifest.metrics) == (classes, ())
        assert {p.name for p in (tmp_path / out).iterdir()} == {"last.pt", "config.toml", "imported.onnx"}


@pytest.mark.slow
def test_import_does_not_overwrite_a_run(imported: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = imported.parent / "alexnet.pth"
    assert main(["import", "--from", "torchvision", str(source), "--out", str(imported)]) == 1
    assert "holds a run already, last.pt; choose another folder" in capsys.readouterr().err


def test_imagenet_has_a_thousand_distinct_class_names() -> None:
    names = imagenet_classes()
    assert len(set(names)) == len(names) == 1000
    assert names[281] == "tabby"


@pytest.mark.slow  # 12 s
def test_state_dicts_with_other_layers_are_refused(
    weights: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(CheckpointError, match=r"it differs in features.0.weight"):
        to_alexnet({k: v for k, v in weights.items() if k != "features.0.weight"})
    torch.save({**weights, "classifier.6.bias": torch.zeros(10)}, tmp_path / "ten.pth")
    command = ["import", "--from", "torchvision", str(tmp_path / "ten.pth"), "--out", str(tmp_path / "run")]
    assert main(command) == 1
    assert (
        "ten.pth is not a usable AlexNet of torchvision's: the weights do not fit"
        in capsys.readouterr().err
    )
    torch.save({**weights, "classifier.6.bias": torch.full((1000,), torch.nan)}, tmp_path / "ten.pth")
    assert main(command) == 1
    assert "ten.pth is not a usable AlexNet of torchvision's: it holds NaN" in capsys.readouterr().err
    torch.save({**weights, "classifier.6.bias": torch.zeros(1000)}, tmp_path / "ten.pth")
    assert main([*command, "--labels", str(tmp_path / "none.txt")]) == 1
    assert f"error: {tmp_path / 'none.txt'}: No such file or directory" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
    fine_tuned = {
        **weights,
        "classifier.6.bias": torch.zeros(3),
        "classifier.6.weight": torch.zeros(3, 4096),
    }
    torch.save({"state_dict": fine_tuned}, tmp_path / "three.pth")
    labels = tmp_path / "labels.txt"
    for text, message in (
        ("a\nb\n", "labels.txt has 2 lines; the network has 3 outputs"),
        ("a\nb\nb\n", "labels.txt has 'b' more than once"),
        ("a\n\nb", "labels.txt has an empty line"),
        ("a\nb\nc\td", "imported.onnx is not written: classes has control characters"),
    ):
        labels.write_text(text)
        named = [*command[:3], str(tmp_path / "three.pth"), *command[4:], "--labels", str(labels)]
        assert main(named) == 1
        assert message in capsys.readouterr().err
        assert not (tmp_path / "run").exists(), "a second attempt is possible"
    (tmp_path / "ten.pth").write_bytes(b"no weights")
    assert main(command) == 1
    assert (
        "ten.pth is not a readable checkpoint: it is truncated, or of another kind"
        in capsys.readouterr().err
    )
    assert main([*command, "--sha256", "0" * 64]) == 1
    assert "not 000" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
