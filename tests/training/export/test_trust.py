"""Export fits trust to held-out photographs, with what the file itself computes; verify repeats it."""

import re
from pathlib import Path
from typing import NamedTuple

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from PIL import Image

from contract.manifest import METADATA_KEY, Manifest
from contract.trust import UNFAMILIARITY
from tests.support.drawing.pictures import draw_classes
from tests.support.runs import COLOURS, train
from training.__main__ import main
from training.data.images import central
from training.errors import CheckpointError
from training.export.export import export
from training.export.trust import NOTES, TrustOptions, scale_logits
from training.export.unfamiliarity import BACKGROUND_WEIGHT, SHARPNESS
from training.export.verify import read_model
from training.run import checkpoint
from training.run.held_out import load_held_out, record_of
from training.trust.calibration import softmax

PER_CLASS = 8  # held out, of three classes


class Exported(NamedTuple):
    """A run, its photographs, pictures of other things, and the file."""

    run: Path
    data: Path
    background: Path
    others: Path
    file: Path

    @property
    def manifest(self) -> Manifest:
        return read_model(self.file)[1]

    def outputs(self, *names: str) -> list[np.ndarray]:
        """Run the held-out photographs."""
        state = checkpoint.load(self.run / "last.pt")
        split = load_held_out(self.data, record_of(state)).split
        crops = central(split.squares(torch.arange(len(split))), state.recipe).numpy()
        session = ort.InferenceSession(str(self.file), providers=["CPUExecutionProvider"])
        return list(session.run(list(names), {"images": crops}))


def stripes(folder: Path, count: int, seed: int) -> Path:
    """Draw pictures unlike the plain colours of the classes."""
    folder.mkdir()
    for number in range(count):
        draw = np.random.default_rng([seed, number])
        pixels = np.kron(draw.integers(0, 2, (16, 16, 1)), np.ones((8, 8, 3))) * draw.integers(100, 256, 3)
        Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{number}.png")
    return folder


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    root = tmp_path_factory.mktemp("trust")
    draw_classes(root / "data" / "train", COLOURS, 6)
    draw_classes(root / "data" / "val", COLOURS, PER_CLASS, first=6)
    background, others = stripes(root / "background", 12, 0), stripes(root / "others", 10, 1)
    options = ["--weight-init", "kaiming", "--epochs", "2", "--background", str(background)]
    assert train(root / "data", root / "run", *options) == 0
    return Exported(root / "run", root / "data", background, others, root / "none")


@pytest.fixture(scope="module", params=["fp32", pytest.param("fp16", marks=pytest.mark.slow), "int8"])
def exported(request: pytest.FixtureRequest, trained: Exported) -> Exported:
    file = trained.run.with_name(f"colours-{request.param}.onnx")
    arguments = ["export", trained.run, "--out", file, "--data", trained.data, "--precision", request.param]
    assert main([*map(str, arguments), "--unfamiliar", str(trained.others)]) == 0
    return trained._replace(file=file)


def test_the_section_says_what_the_file_computes(exported: Exported) -> None:
    probabilities, unfamiliarity = exported.outputs("probabilities", UNFAMILIARITY)
    trust = exported.manifest.trust
    assert trust is not None
    assert (trust.photographs, trust.method) == (3 * PER_CLASS, "cross-fitting")
    familiarity = trust.familiarity
    assert familiarity is not None
    assert (familiarity.references, familiarity.background) == (18, 12), "the background of the training"
    # The scale was fitted to these photographs: their ranks, from 0 to 1.
    assert sorted(unfamiliarity) == pytest.approx(np.linspace(0, 1, 3 * PER_CLASS), abs=0.01)
    (others,) = familiarity.unfamiliar
    assert (others.data, others.images) == ("others", 10)
    assert others.auroc > 0.9, "stripes are unlike plain colours"
    np.testing.assert_allclose(probabilities.sum(1), 1, rtol=1e-5)


def test_the_file_has_the_temperature_in_its_last_layer(exported: Exported) -> None:
    """Without --data the same checkpoint is exported without trust, in float32."""
    trust = exported.manifest.trust
    assert trust is not None
    plain = exported._replace(file=exported.run.with_name("plain.onnx"))
    export(exported.run, plain.file)
    assert plain.manifest.trust is None
    (before,) = plain.outputs("probabilities")
    (after,) = exported.outputs("probabilities")
    expected = softmax(np.log(before.astype(float)), trust.temperature)
    assert (
        abs(after - expected).max() < {"fp32": 1e-5, "fp16": 5e-3, "int8": 0.1}[exported.manifest.precision]
    )
    assert abs(after - before).max() > 0.01, "the temperature changes something"
    assert (after.argmax(1) == before.argmax(1)).mean() > 0.9


def test_the_graph_computes_the_densities(exported: Exported) -> None:
    """Repeat the score in numpy, from the file's own conv5 and its stored pictures."""
    conv5, unfamiliarity = exported.outputs("conv5", UNFAMILIARITY)
    stored = {
        t.name: onnx.numpy_helper.to_array(t).astype(float)
        for t in onnx.load(exported.file).graph.initializer
    }
    parts = {"mean": conv5.mean((2, 3)), "max": conv5.max((2, 3))}
    parts = {key: rows / np.linalg.norm(rows, axis=1, keepdims=True) for key, rows in parts.items()}

    def log_density(pictures: str) -> np.ndarray:
        cosines = [rows @ stored[f"unfamiliarity.{pictures}.{key}"].T for key, rows in parts.items()]
        return np.asarray(np.log(np.exp(SHARPNESS * (cosines[0] + cosines[1]) / 2).mean(1)))

    score = BACKGROUND_WEIGHT * log_density("background") - log_density("references")
    assert (np.argsort(score) == np.argsort(unfamiliarity)).mean() > 0.8, "ties and rounding aside"
    assert np.corrcoef(score.argsort().argsort(), unfamiliarity)[0, 1] > 0.99


def test_verify_repeats_every_figure(exported: Exported, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = [str(exported.file), "--data", str(exported.data), "--unfamiliar", str(exported.others)]
    assert main(["verify", *arguments]) == 0
    assert "unfamiliar, others (10): AUROC" in capsys.readouterr().out


@pytest.mark.parametrize("exported", ["int8"], indirect=True)
def test_verify_notices_figures_that_do_not_hold(
    exported: Exported, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model, changed = onnx.load(exported.file), tmp_path / "colours.onnx"
    scale_logits(model, 2)
    onnx.save(model, changed)
    assert main(["verify", str(changed), "--data", str(exported.data)]) == 1
    assert "fails verification: " in (errors := capsys.readouterr().err)
    assert "temperature is " in errors
    model = onnx.load(exported.file)
    (entry,) = (entry for entry in model.metadata_props if entry.key == METADATA_KEY)
    entry.value = re.sub(r'("mean_size": )\d', r"\g<1>4", entry.value)
    onnx.save(model, changed)
    assert main(["verify", str(changed), "--data", str(exported.data)]) == 1
    assert "mean size of the 80 % sets is " in capsys.readouterr().err


def test_inspect_prints_trust(exported: Exported, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", str(exported.file)]) == 0
    assert sum(line.startswith("  trust ") for line in capsys.readouterr().out.splitlines()) >= 4


def test_the_report_draws_calibration_and_unfamiliarity(trained: Exported) -> None:
    assert main(["report", str(trained.run), "--unfamiliar", str(trained.others)]) == 0
    page = (trained.run / "report.html").read_text()
    assert "exactly calibrated" in page
    assert page.count("<rect ") == 2 * 20, "a histogram each of photographs and of others"


@pytest.mark.parametrize(
    ("changes", "note"),
    [
        ({"held_out": 5}, "no trust is fitted to 15 held-out photographs; 20 are needed"),
        (
            {"train": False},
            "no unfamiliarity: the training photographs are not in the folder of --data",
        ),
        ({"background": False}, "without the background pictures of the training, which are gone"),
    ],
    ids=["few photographs", "no training photographs", "no background"],
)
def test_what_cannot_be_fitted_is_said_and_left_out(
    trained: Exported, tmp_path: Path, changes: dict[str, object], note: str
) -> None:
    state = checkpoint.load(trained.run / "last.pt")
    if "held_out" in changes:
        state.held_out["digests"] = state.held_out["digests"][
            torch.arange(3 * PER_CLASS).view(3, PER_CLASS)[:, :5].flatten()
        ]
    if "train" in changes:
        state.trained_on = state.trained_on + 1
    if "background" in changes:
        state.background = str(tmp_path / "background")
    checkpoint.save(state, tmp_path / "last.pt")
    manifest = export(tmp_path / "last.pt", tmp_path / "net.onnx", data=trained.data)
    (found,) = manifest.training[NOTES]
    assert found == note
    assert (manifest.trust is None) == ("held_out" in changes)
    if manifest.trust is not None:
        assert (manifest.trust.familiarity is None) == ("train" in changes)


def test_a_network_that_diverged_is_refused(trained: Exported, tmp_path: Path) -> None:
    state = checkpoint.load(trained.run / "last.pt")
    for name in ("fc6.weight", "fc7.weight", "fc8.weight"):
        state.model[name].mul_(1e25)  # finite, and the logits are not
    checkpoint.save(state, tmp_path / "last.pt")
    with pytest.raises(CheckpointError, match="outputs are NaN: it diverged"):
        export(tmp_path / "last.pt", tmp_path / "net.onnx", data=trained.data)


def test_the_limit_can_be_chosen(trained: Exported, tmp_path: Path) -> None:
    options = TrustOptions(background=trained.others, unknown_above=0.5)
    manifest = export(trained.run, tmp_path / "net.onnx", data=trained.data, trust=options)
    familiarity = manifest.trust.familiarity  # type: ignore[union-attr]
    assert familiarity is not None
    assert (familiarity.unknown_above, familiarity.background) == (0.5, 10)
    assert familiarity.known.value == pytest.approx(0.5, abs=0.2)
