"""Damaged and foreign files give one short error and exit code 1 in every command."""

import io
import json
import pickle
import random
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import pytest
import torch

from contract.manifest import METADATA_KEY
from tests.training.run.test_checkpoint import a_checkpoint
from training.__main__ import main
from training.distributed import Ranks
from training.errors import CheckpointError
from training.export.export import export
from training.run import checkpoint
from training.run.choice import choose
from training.run.log import Log
from training.start.tensorfile import SUFFIX
from training.start.weights import read_start, write_safetensors
from training.train import Trainer

MAX_MESSAGE = 400  # characters of a message, beside the file's name


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """Make a valid file of each suffix."""
    folder = tmp_path_factory.mktemp("sound")
    run, model, tensors = (folder / f"a{suffix}" for suffix in (".pt", ".onnx", SUFFIX))
    checkpoint.save(a_checkpoint(), run)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("training.export.parity.BATCHES", (1, 2))  # parity does not matter here
        export(run, model)
    write_safetensors(tensors, read_start(str(model), 1.0))
    return {path.suffix: path.read_bytes() for path in (run, model, tensors)}


def refused(capsys: pytest.CaptureFixture[str], path: Path, *command: object) -> str:
    """Run a command that must fail -> its error message: one line, not long."""
    assert main([*map(str, command)]) == 1, command
    message = capsys.readouterr().err
    assert message.startswith("error: ")
    assert message.count("\n") == 1
    assert len(message) <= MAX_MESSAGE + message.count(str(path)) * len(str(path)), message
    return message


def commands(path: Path, photographs: Path, tmp_path: Path) -> list[list[object]]:
    """List every command that reads a file of this suffix."""
    data, out = ["--data", photographs], tmp_path / "out"
    train = ["train", *data, "--out", out, "--from", path, "--device", "cpu"]
    if path.suffix == ".onnx":
        return [train, ["inspect", path], ["verify", path, *data]]
    imported: list[list[object]] = [["import", "--from", "torchvision", path, "--out", out]]
    if path.suffix == SUFFIX:
        return [train, *imported]
    reading = [
        ["evaluate", path, *data, "--device", "cpu"],
        ["export", path, "--out", out],
        ["report", path],
    ]
    return [train, *imported, *reading]


def write_zip(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("photo.jpg", b"x")


FOREIGN: dict[str, Callable[[Path], object]] = {
    "empty": lambda path: path.write_bytes(b""),
    "text": lambda path: path.write_text("epoch,loss\n" * 500),
    "random": lambda path: path.write_bytes(random.Random(0).randbytes(5000)),
    "a zip": write_zip,
    "a pickle of a class": lambda path: path.write_bytes(pickle.dumps({"a": Path()}, protocol=2)),
    "a module": lambda path: torch.save(torch.nn.Linear(2, 2), path),
    "a number": lambda path: torch.save(5, path),
    "other tensors": lambda path: torch.save({"x" * 9000: torch.zeros(2)}, path),
    "a scalar": lambda path: torch.save({"classifier.6.bias": torch.zeros(())}, path),
    "a nest of nothing": lambda path: torch.save({"state_dict": {"model": {}}, "config": {}}, path),
    "an empty model": lambda path: path.write_bytes(onnx.ModelProto(ir_version=8).SerializeToString()),
    "a long header": lambda path: path.write_bytes((10**15).to_bytes(8, "little") + b"{}"),
}


@pytest.mark.parametrize("suffix", [".pt", ".onnx", SUFFIX])
@pytest.mark.parametrize("content", FOREIGN)
def test_every_command_refuses_other_files(
    content: str, suffix: str, photographs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / f"file{suffix}"
    FOREIGN[content](path)
    for command in commands(path, photographs, tmp_path):
        assert str(path) in refused(capsys, path, *command)
        assert list(tmp_path.iterdir()) == [path], "no file is left behind"


@pytest.mark.parametrize("suffix", [".pt", ".onnx", SUFFIX])
def test_truncated_and_altered_files_never_raise_other_errors(
    suffix: str, sound: dict[str, bytes], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Change bytes mostly at both ends, where the structure is."""
    draw, path, whole = random.Random(0), tmp_path / f"file{suffix}", sound[suffix]
    for turn in range(30):
        data = bytearray(whole)
        ends = [*range(min(4000, len(data))), *range(max(0, len(data) - 4000), len(data))]
        if turn % 3 == 0:
            data = data[: draw.choice([draw.choice(ends), draw.randrange(len(data))])]
        else:
            for _ in range(draw.choice([1, 3, 30])):
                data[draw.choice(ends)] = draw.randrange(256)
        path.write_bytes(data)
        if suffix == ".onnx" and main(["inspect", str(path)]):
            assert len(capsys.readouterr().err) < MAX_MESSAGE + len(str(path))
        message = ""
        try:
            read_start(str(path), 1.0)
        except CheckpointError as error:
            message = str(error)
        assert len(message) < MAX_MESSAGE + len(str(path))


def test_a_changed_weight_is_detected_by_the_checksum(
    sound: dict[str, bytes], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nothing else would detect it: the value is still a number."""
    path, data = tmp_path / "run.pt", bytearray(sound[".pt"])
    weights = checkpoint.from_record(torch.load(io.BytesIO(data), weights_only=True), path).model
    place = data.index(weights["fc7.weight"].numpy().tobytes())
    data[place] ^= 1
    path.write_bytes(data)
    message = refused(capsys, path, "evaluate", path, "--data", tmp_path)
    assert "is damaged" in message
    assert "checksum" in message


def test_a_model_file_is_refused_as_a_run_with_the_right_command(
    sound: dict[str, bytes], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(sound[".onnx"])
    assert "it is a model file; `verify` measures it" in refused(
        capsys, path, "evaluate", path, "--data", tmp_path
    )
    assert f"{tmp_path} cannot be read: Is a directory" in refused(capsys, path, "inspect", tmp_path)


NAN = float("nan")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        *(({name: None}, f"is damaged: {name} is ") for name in ("mean", "model", "step", "provenance")),
        ({"config": 5}, "its settings are of the wrong type"),
        ({"config": {"epochs": -1}}, "is damaged: epochs is -1"),
        ({"config": {"x" * 9000: 1}}, "a newer version of this program"),
        ({"gradient_history": []}, "a newer version of this program, with 'gradient_history'"),
        ({"preprocessing": "lanczos-512"}, "a newer version of this program"),
        ({"classes": ("a",)}, "it has 1 classes"),
        ({"classes": ("a", 2, "c")}, "classes is of the wrong type"),
        ({"mean": [1.0, NAN, 1.0]}, "mean is [1.0, nan, 1.0]"),
        ({"std": [0.0] * 3}, "std is [0.0, 0.0, 0.0]"),
        ({"step": -4}, "step is -4"),
        ({"metrics": {"images": 4, "top1": NAN, "top5": 1.0}}, "metrics is {'images': 4, 'top1': nan"),
        ({"best": {"images": 4, "top1": 0.5, "top5": 1.0}}, "best is {'images'"),
        ({"metrics": {"images": 4}}, "metrics is {'images': 4}"),
        ({"schedule": {"drops": "one"}}, "schedule has 'one'"),
        ({"provenance": {"split": 3}}, "provenance has 3"),
        ({"raw": {}}, "have different shapes"),
        ({"model": {"conv1.weight": torch.zeros(1, dtype=torch.int64)}}, "holds torch.int64"),
        ({"model": {"conv1.weight": torch.zeros(1).to_sparse()}}, "torch.sparse_coo"),
        ({"model": {"conv1.weight": torch.full((1,), NAN)}}, "holds NaN or infinity"),
    ],
)
def test_a_checkpoint_with_an_impossible_field_is_refused(
    change: dict[str, Any], message: str, tmp_path: Path
) -> None:
    path = tmp_path / "last.pt"
    checkpoint.save(a_checkpoint(), path)
    torch.save({**torch.load(path, weights_only=True), **change}, path)
    with pytest.raises(CheckpointError) as error:
        choose(path)
    assert str(error.value).startswith(str(path))
    assert message in str(error.value)
    assert len(str(error.value)) < MAX_MESSAGE + len(str(path))


def test_missing_required_fields_are_refused_and_newer_ones_default(tmp_path: Path) -> None:
    path = tmp_path / "last.pt"
    checkpoint.save(a_checkpoint(), path)
    record = torch.load(path, weights_only=True)
    for name in ("model", "mean"):
        torch.save({key: value for key, value in record.items() if key != name}, path)
        with pytest.raises(CheckpointError, match=f"is damaged: {name} is missing"):
            checkpoint.load(path)
    needed = ("config", "classes", "mean", "model")
    torch.save({key: record[key] for key in needed}, path)
    assert checkpoint.load(path).metrics == {}


def test_an_optimiser_state_of_another_network_is_refused() -> None:
    state = a_checkpoint()
    trainer = Trainer(state, torch.zeros(3, 3), Ranks(torch.device("cpu")))
    groups = trainer.optimizer.state_dict()["param_groups"]
    shape = {"momentum_buffer": torch.zeros(7)}
    damaged: list[dict[str, Any]] = [
        {"state": {}},
        {"state": 3, "param_groups": groups},
        {"state": {0: shape}, "param_groups": groups},
        {"state": {0: {}}, "param_groups": groups},
        {"state": {}, "param_groups": []},
    ]
    for saved in damaged:
        state.optimizer = saved
        with pytest.raises(CheckpointError, match="its optimiser state does not belong to this network"):
            Trainer(state, torch.zeros(3, 3), Ranks(torch.device("cpu")))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": 2}, "a newer version of this program"),
        ({"rotation": 1}, "a newer version of this program"),
        ({"shape": {"width": "wide"}}, "is damaged: width is 'wide'"),
        ({"shape": {"depth": 3}}, "a newer version of this program"),
        ({"mean": [1, 2]}, "is damaged: mean is [1, 2]"),
        ({"classes": ["a", "b"]}, "its 2 classes are not those of fc8"),
        ({"provenance": None}, "is damaged: provenance is None"),
    ],
)
def test_impossible_metadata_is_refused(
    change: dict[str, Any], message: str, sound: dict[str, bytes], tmp_path: Path
) -> None:
    path = tmp_path / "file.safetensors"
    size = int.from_bytes(sound[SUFFIX][:8], "little")
    header = json.loads(sound[SUFFIX][8 : 8 + size])
    metadata = header["__metadata__"]
    metadata[METADATA_KEY] = json.dumps({**json.loads(metadata[METADATA_KEY]), **change})
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + sound[SUFFIX][8 + size :])
    with pytest.raises(CheckpointError, match=r"file\.safetensors") as error:
        read_start(str(path), 1.0)
    assert message in str(error.value)


@pytest.mark.parametrize(
    "log",
    [
        b"\xff\xfe\x00\x01",
        b"epoch,loss\nx,1\n",
        b"a,b\n1,2\n",
        b"epoch,loss\n0,1\n",
        b"epoch,loss\n1," + b"x" * 200_000,
    ],
)
def test_a_damaged_log_is_refused(
    log: bytes, photographs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    state = a_checkpoint()
    state.classes, state.data = ("blue", "orange", "white"), str(photographs)
    checkpoint.save(state, tmp_path / "last.pt")
    (tmp_path / "metrics.csv").write_bytes(log)
    assert "metrics.csv is damaged: " in refused(capsys, tmp_path, "report", tmp_path)
    with pytest.raises(CheckpointError):
        Log(tmp_path, 1, 1)
    assert not (tmp_path / "metrics.partial").exists()
