"""The base network: the shipped files, and the command that makes them."""

import re
import signal
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.support.runs import same, train
from training.__main__ import main
from training.model import AlexNet
from training.optim import update_average
from training.run import checkpoint
from training.run.signals import INTERRUPTED
from training.start import base
from training.start.narrow import CONVOLUTIONS, narrowed
from training.start.weights import Start, read_start


@pytest.mark.slow  # 20 s: large networks
@pytest.mark.parametrize("width", [0.5, 1.0])
def test_shipped_base_gives_a_run_its_convolutions(
    width: float, photographs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--width", str(width), "--weight-init", "kaiming", "--lr", "1e-9", "--from", "base"]
    assert train(photographs, tmp_path / "run", *options) == 0
    assert f"the base network of width {width}; afresh: fc6, fc7, fc8" in capsys.readouterr().out
    state, shipped = checkpoint.load(tmp_path / "run" / "last.pt"), read_start("base", width)
    assert {name.split(".")[0] for name in shipped.weights} == {f"conv{n}" for n in range(1, 6)}
    for name, weights in shipped.weights.items():
        torch.testing.assert_close(state.model[name], weights, atol=1e-6, rtol=0)
    assert (state.mean, state.std) == (shipped.mean, shipped.std)
    assert state.provenance["started_from"]["data"] == "tiny-imagenet+cifar10"


def test_a_width_without_a_base_is_refused_with_the_available_ones(
    photographs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train(photographs, tmp_path / "run", "--from", "base", "--width", "0.3") == 1
    assert re.search(r"no base network of width 0.3; --width .*1\.0 has one", capsys.readouterr().err)


def make(photographs: Path, out: Path, *options: str) -> int:
    sets = ["--data", str(photographs), "--data", str(photographs), "--batches", "4", "2"]
    return main(["base", *sets, "--out", str(out), "--width", "0.05", *options])


def made(photographs: Path, out: Path, *options: str) -> Start:
    assert make(photographs, out, *options) == 0
    assert not out.with_suffix(".checkpoint").exists()
    return read_start(str(out), 0.05)


def test_base_of_two_sets_starts_a_run(photographs: Path, tmp_path: Path) -> None:
    start = made(photographs, tmp_path / "base.safetensors", "--epochs", "4")
    assert start.provenance["steps"] == 12  # 4 epochs of 12 pictures, 4 of them a step
    assert start.provenance["config"]["epochs"] == 4
    assert not torch.backends.cuda.matmul.allow_tf32, "its validation is in float32 on GPUs too"
    assert train(photographs, tmp_path / "run", "--from", str(tmp_path / "base.safetensors")) == 0


def test_equal_seeds_make_equal_bases(photographs: Path, tmp_path: Path) -> None:
    runs = [
        made(photographs, tmp_path / f"{n}.safetensors", "--epochs", "1", "--seed", seed).weights
        for n, seed in enumerate("112")
    ]
    assert same(dict(runs[0]), dict(runs[1]))
    assert not same(dict(runs[0]), dict(runs[2]))


def test_a_resumed_base_ends_with_the_same_weights(
    photographs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "base.safetensors"
    unbroken = made(photographs, tmp_path / "unbroken.safetensors", "--epochs", "2")

    def average_and_stop(*of_step: Any) -> None:
        update_average(*of_step)
        if of_step[-1] == 1:
            signal.raise_signal(signal.SIGTERM)

    with monkeypatch.context() as patched:
        patched.setattr(base, "update_average", average_and_stop)
        assert make(photographs, out, "--epochs", "2") == INTERRUPTED
    assert "stopped after step 2; repeat the command to continue" in capsys.readouterr().err
    assert make(photographs, out, "--epochs", "3") == 1
    assert "base.checkpoint was written with other settings" in capsys.readouterr().err
    assert same(dict(made(photographs, out, "--epochs", "2").weights), dict(unbroken.weights))
    assert "resumes after step 2" in capsys.readouterr().out


def test_the_largest_kernels_of_each_half_are_kept_with_their_inputs() -> None:
    wide, narrow = AlexNet(2, 0.1).state_dict(), AlexNet(2, 0.05).state_dict()
    for name in CONVOLUTIONS:  # the later a kernel is, the larger; each weight says where it was
        outputs, inputs = wide[f"{name}.weight"].shape[:2]
        places = 1.0 + torch.arange(outputs)[:, None] + torch.arange(inputs) / 1000
        wide[f"{name}.weight"] = places[:, :, None, None].expand_as(wide[f"{name}.weight"])
        wide[f"{name}.bias"] = torch.arange(outputs) * 1.0
    weights = narrowed(wide, narrow)
    assert {k: v.shape for k, v in weights.items()} == {
        k: v.shape for k, v in narrow.items() if k.startswith("conv")
    }

    def kept_kernels(name: str) -> list[int]:
        of, count = len(wide[f"{name}.bias"]) // 2, len(narrow[f"{name}.bias"]) // 2
        return [*range(of - count, of), *range(2 * of - count, 2 * of)]

    for name, before, groups in (("conv2", "conv1", 2), ("conv3", "conv2", 1), ("conv4", "conv3", 2)):
        assert weights[f"{name}.bias"].tolist() == kept_kernels(name)
        per_group = wide[f"{name}.weight"].shape[1]
        of_half = len(kept_kernels(before)) // groups
        for row, output in enumerate(kept_kernels(name)):
            group = groups * row // len(kept_kernels(name))
            inputs = kept_kernels(before)[group * of_half : (group + 1) * of_half]
            expected = torch.tensor([1.0 + output + (place - group * per_group) / 1000 for place in inputs])
            scale = (per_group / len(inputs)) ** 0.5
            torch.testing.assert_close(weights[f"{name}.weight"][row, :, 0, 0], scale * expected)


def test_a_base_starts_from_a_network_as_wide_or_wider(
    photographs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made(photographs, tmp_path / "wide.safetensors", "--epochs", "1", "--width", "0.1")
    options = ["--from", str(tmp_path / "wide.safetensors"), "--epochs", "1"]
    assert make(photographs, tmp_path / "b.safetensors", *options) == 0
    assert make(photographs, tmp_path / "c.safetensors", *options, "--width", "0.2") == 1
    assert "must be this network at the same width or wider" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("out", "options", "message"),
    [
        ("b.pt", (), "it must be NAME.safetensors in a folder that exists"),
        ("none/b.safetensors", (), "it must be NAME.safetensors in a folder that exists"),
        ("b.safetensors", ("--batches", "4"), "--batches has 1 numbers for 2 --data"),
        ("b.safetensors", ("--width", "2"), "width is 2.0; it must be above 0 and at most 1"),
    ],
)
def test_bad_options_of_base_are_refused_before_training(
    out: str,
    options: tuple[str, ...],
    message: str,
    photographs: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert make(photographs, tmp_path / out, *options) == 2
    assert message in capsys.readouterr().err


@pytest.mark.slow
def test_a_base_learns_its_classes(photographs: Path, tmp_path: Path) -> None:
    start = made(photographs, tmp_path / "base.safetensors", "--epochs", "100")
    assert min(start.provenance["top1"].values()) >= 0.8  # of three colours; chance is 0.33
