"""Exports that are refused leave no partial file and keep the old one."""

from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import onnx
import pytest
import torch

from tests.support.full_disk import full_disk
from tests.support.runs import trained
from training.__main__ import main
from training.errors import ExportError
from training.export import parity
from training.export.export import export
from training.export.graph import build_graph
from training.model import AlexNet
from training.run import checkpoint


@pytest.mark.parametrize("old", [b"the old file", None])
def test_a_diverged_checkpoint_leaves_no_file_and_keeps_the_old_one(
    old: bytes | None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, out = trained(tmp_path / "best.pt"), tmp_path / "models" / "colours.onnx"
    out.parent.mkdir()
    if old is not None:
        out.write_bytes(old)
    state = checkpoint.load(run)
    dict(state.model)["fc7.weight"][3, 5] = torch.nan
    checkpoint.save(state, run)
    assert main(["export", str(run), "--out", str(out)]) == 1
    assert "best.pt holds NaN or infinity: it diverged" in capsys.readouterr().err
    assert {path.name: path.read_bytes() for path in out.parent.iterdir()} == (
        {} if old is None else {"colours.onnx": old}
    )


def test_a_graph_with_one_wrong_weight_is_not_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The parity check detects a mistake of the graph builder."""

    def mistaken(model: AlexNet, *rest: Any) -> onnx.ModelProto:
        model = deepcopy(model)
        with torch.no_grad():
            model.conv3.weight[0, 0, 1, 1] += 0.5
        return build_graph(model, *rest)

    monkeypatch.setattr(parity, "BATCHES", (32,))  # of noise, which not every weight shows on
    run = trained(tmp_path / "best.pt")
    export(run, tmp_path / "net.onnx")
    right = (tmp_path / "net.onnx").read_bytes()
    monkeypatch.setattr("training.export.export.build_graph", mistaken)
    with pytest.raises(ExportError, match=r"net\.onnx is not written: its probabilities differ"):
        export(run, tmp_path / "net.onnx")
    assert (tmp_path / "net.onnx").read_bytes() == right


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
    message = capsys.readouterr().err
    assert "image_size 112" in message
    assert "--from" in message
    assert not (tmp_path / "small.onnx").exists()


def test_an_unwritable_file_is_reported_before_the_slow_part(
    photographs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = trained(tmp_path / "best.pt")
    (tmp_path / "file").write_bytes(b"")
    out = tmp_path / "file" / "x.onnx"
    assert main(["export", str(run), "--out", str(out), "--data", "not looked at yet"]) == 1
    assert f"{out} cannot be written: Not a directory" in capsys.readouterr().err
    assert main(["export", str(run), "--out", str(tmp_path / "made" / "for" / "x.onnx")]) == 0
    assert (tmp_path / "made" / "for" / "x.onnx").is_file()


def test_a_full_disk_keeps_the_old_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run, out = trained(tmp_path / "best.pt"), tmp_path / "net.onnx"
    out.write_bytes(b"the old file")
    with full_disk(100_000):
        assert main(["export", str(run), "--out", str(out)]) == 1
    assert f"error: {out} cannot be written: File too large" in capsys.readouterr().err
    assert out.read_bytes() == b"the old file"
    assert {path.name for path in tmp_path.iterdir()} == {"best.pt", "net.onnx"}


def test_export_refuses_a_file_that_is_not_a_checkpoint(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = trained(tmp_path / "best.pt")
    whole = run.read_bytes()
    state = checkpoint.load(run)
    for content, message in (
        (whole[: len(whole) // 2], "is not a readable checkpoint"),
        (b"", "is not a readable checkpoint"),
    ):
        run.write_bytes(content)
        assert main(["export", str(run), "--out", str(tmp_path / "net.onnx")]) == 1
        assert f"{run} {message}" in capsys.readouterr().err
    checkpoint.save(replace(state, config=replace(state.config, arch="torchvision")), run)
    assert main(["export", str(run), "--out", str(tmp_path / "net.onnx")]) == 1
    assert "the weights do not fit the network of the settings" in capsys.readouterr().err
    assert not (tmp_path / "net.onnx").exists()
