"""The command line: help, exit codes, and error messages."""

import argparse
import json
from dataclasses import fields
from pathlib import Path

import pytest
import torch

from tests.support.drawing.pictures import draw_classes
from tests.support.runs import python
from training.__main__ import COMMANDS, main
from training.cli.options import make_parser
from training.config import Config
from training.export.verify import read_model
from training.run import checkpoint


@pytest.mark.parametrize("command", [[], *([name] for name in COMMANDS)])
def test_help_is_printed(command: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main([*command, "--help"])
    assert end.value.code == 0
    output = capsys.readouterr().out
    assert "usage: python -m training" in output
    if not command:
        assert all(name in output for name in (*COMMANDS, "Exit codes"))
    if command == ["train"]:
        assert all(f"--{f.name.replace('_', '-')}" in output for f in fields(Config))


@pytest.mark.parametrize("command", COMMANDS)
def test_help_gives_the_default_of_every_optional_option(command: str) -> None:
    (commands,) = (a for a in make_parser("")._actions if isinstance(a, argparse._SubParsersAction))
    options = [action for action in commands.choices[command]._actions if action.dest != "help"]
    assert options
    for action in options:
        assert action.required or "default" in str(action.help), action.option_strings


@pytest.mark.parametrize("option", ["--keep", "--workers"])
@pytest.mark.parametrize("value", ["0", "-1", "two"])
def test_counts_below_one_are_usage_errors(
    option: str, value: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as end:
        main(["train", "--data", "photos", "--out", "run", option, value])
    assert end.value.code == 2
    assert f"argument {option}: '{value}' is not a whole number above 0" in capsys.readouterr().err


def test_commands_multiply_in_float32_on_gpus() -> None:
    torch.backends.cudnn.allow_tf32 = True  # torch's default
    assert main(["summary"]) == 0
    assert not torch.backends.cudnn.allow_tf32
    assert not torch.backends.cuda.matmul.allow_tf32


def test_the_summary_has_the_paper_s_totals(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["summary"]) == 0
    rows = capsys.readouterr().out.splitlines()
    assert rows[-1].split() == ["total", "60,965,224", "724,406,816"]
    assert rows[1].split() == ["conv1", *["96", "x", "55", "x", "55"], "34,944", "105,415,200"]
    assert main(["summary", "--arch", "one-tower", "--no-lrn", "--json"]) == 0
    table = json.loads(capsys.readouterr().out)
    assert (table["parameters"], table["multiply_adds"]) == (62_378_344, 1_135_256_096)
    assert [layer["name"] for layer in table["layers"]][:3] == ["conv1", "pool1", "conv2"]
    assert main(["summary", "--classes", "1"]) == 2
    assert "--classes is 1; it must be 2 or more" in capsys.readouterr().err


def test_init_writes_a_run_that_can_be_exported(tmp_path: Path) -> None:
    run = tmp_path / "run"
    command = ["init", "--out", str(run), "--classes", "7", "--width", "0.05", "--seed", "3"]
    assert main(command) == 0
    assert {path.name for path in run.iterdir()} == {"last.pt", "config.toml"}
    assert main(["export", str(run), "--out", str(tmp_path / "net.onnx")]) == 0
    _model, manifest = read_model(tmp_path / "net.onnx")
    assert (manifest.classes[0], len(manifest.classes), manifest.metrics) == ("class0000", 7, ())
    assert main(command) == 1, "an existing run is not replaced"
    again = tmp_path / "again"
    assert main([*command[:2], str(again), *command[3:]]) == 0
    ours, theirs = (checkpoint.load(path / "last.pt").model for path in (run, again))
    assert torch.equal(ours["fc8.weight"], theirs["fc8.weight"])


def test_the_module_runs_as_a_program() -> None:
    with python("-m", "training", "train", "--data", "/nowhere", "--out", "/nowhere/run") as process:
        _out, errors = process.communicate()
    assert process.returncode == 1
    assert errors == "error: /nowhere is not a folder; expected one with a folder of images per class\n"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--epochs", "0"], "--epochs is 0; it must be above 0"),
        (["--epochs", "many"], "--epochs is 'many'; it must be a whole number"),
        (["--width", "1.5"], "--width is 1.5"),
        (["--lr", "nan"], "--lr is nan"),
        (["--weight-decay", "-1"], "--weight-decay is -1.0"),
        (["--weight-init", "xavier"], "--weight-init is 'xavier'; use paper or kaiming"),
        (["--recipe", "imagenet"], "no recipe 'imagenet'"),
    ],
)
def test_a_bad_setting_is_a_usage_error(
    options: list[str], message: str, photographs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    assert main(["train", "--data", str(photographs), "--out", str(run), *options]) == 2
    assert capsys.readouterr().err.startswith(f"error: {message}")
    assert not run.exists()


def test_all_problems_are_reported_at_once(
    photographs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Problems are reported before anything is read or written, under the names that were typed."""
    run = tmp_path / "run"
    run.mkdir()
    (run / "thesis.txt").write_text("precious")
    command = ["train", "--data", str(tmp_path / "none"), "--out", str(run), "--weights", "nowhere.pt"]
    folders = [
        "none is not a folder",
        "run is not empty; add --resume",
        "--from is nowhere.pt, which does not exist",
    ]
    for options, code, settings in (
        ([], 1, []),
        (["--lr", "-1", "--batch-size", "0"], 2, ["--batch-size is 0", "--lr is -1.0"]),
    ):
        assert main([*command, *options]) == code
        message = capsys.readouterr().err.splitlines()
        assert len(message) == len(settings + folders)
        for line, words in zip(message, settings + folders, strict=True):
            assert line.startswith("error: ")
            assert words in line
    assert main(["train", "--out", str(tmp_path / "new")]) == 1
    assert "--data is missing" in capsys.readouterr().err
    nested = photographs / "train" / "run"
    assert main(["train", "--data", str(photographs), "--out", str(nested)]) == 1
    assert f"{nested} is in {photographs}, and would be taken for a class" in capsys.readouterr().err
    assert main(["train", "--data", str(photographs), "--out", str(run / "thesis.txt")]) == 1
    assert "thesis.txt is a file; --out is a folder" in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["run", "thesis.txt"]
    assert not nested.exists()


def test_a_bad_recipe_file_is_a_usage_error(
    photographs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = tmp_path / "mine.toml"
    for text, message in (
        ("epoch = 3", "epoch is no setting"),
        ('epochs = "3"', "epochs is '3'; it must be a whole number"),
        ("epochs = ", "mine.toml"),
    ):
        recipe.write_text(text)
        command = ["train", "--data", str(photographs), "--out", str(tmp_path / "run")]
        assert main([*command, "--recipe", str(recipe)]) == 2
        assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["fly"],
        ["export", "run"],
        ["export", "run", "--out", "x.onnx", "--precision", "fp8"],
    ],
)
def test_wrong_arguments_are_usage_errors(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main(arguments)
    assert end.value.code == 2
    assert "usage:" in capsys.readouterr().err


@pytest.mark.parametrize("device", ["tpu", "cuda:x", "cpu:9:9", "cuda:99"])
def test_an_unknown_or_absent_device_is_a_usage_error(
    device: str, photographs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["train", "--data", str(photographs), "--out", str(tmp_path / "run"), "--device", device]
    with pytest.raises(SystemExit) as end:
        main(command)
    assert end.value.code == 2
    assert f"--device: '{device}' cannot be used here" in capsys.readouterr().err


def test_data_errors_have_exit_code_1(
    photographs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = draw_classes(tmp_path / "data", {"a": (200, 50, 50), "b": (50, 50, 200)}, 3, size=16)
    (data / "empty").mkdir()
    assert main(["train", "--data", str(data), "--out", str(tmp_path / "run")]) == 1
    assert "class 'empty'" in capsys.readouterr().err
    assert main(["evaluate", str(tmp_path / "none.pt"), "--data", str(data)]) == 1
    assert "none.pt does not exist" in capsys.readouterr().err
    assert main(["train", "--resume", "--out", str(tmp_path / "run")]) == 1
    assert f"there is no run in {tmp_path / 'run'}" in capsys.readouterr().err
    assert main(["export", str(data), "--out", str(tmp_path / "x.onnx")]) == 1
    assert "neither best.pt nor last.pt" in capsys.readouterr().err
    assert photographs.is_dir()
