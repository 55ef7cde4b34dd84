"""A run is measured on its held-out photographs, found by content, with notes on differences."""

import os
import re
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tests.support.drawing.pictures import draw_classes
from tests.support.held_out import COLOURS, CONFIG, measured, run_on
from tests.support.runs import train
from training.__main__ import main
from training.config import Config
from training.data import measured_on
from training.data.measured_on import (
    OTHERS,
    TRAINING,
    UNKNOWN,
    VALIDATION,
    digest_of_all,
    read_measured_on,
)
from training.data.prepared import load_dataset, prepare
from training.errors import DataError
from training.export.verify import read_model
from training.run import checkpoint
from training.run.checkpoint import Checkpoint
from training.run.held_out import (
    Record,
    load_held_out,
    load_some_training,
    record_of,
)
from training.start.record import (
    earlier_of_file,
)
from training.start.weights import read_start


def test_the_held_out_photographs_are_measured_wherever_they_are(photos: Path, tmp_path: Path) -> None:
    state = run_on(load_dataset(photos, CONFIG))
    held = set(state.held_out["names"])
    assert len(held) == 6
    checkpoint.save(state, tmp_path / "run.pt")  # the record survives a file
    state = checkpoint.load(tmp_path / "run.pt")
    moved = photos.rename(tmp_path / "moved")
    for path in moved.glob("*/*"):
        path.with_name(f"{path.name}.json").write_text("{}")
    names, result = measured(moved, state)
    assert (names, result.kind, result.notes, result.lacking) == (held, VALIDATION, (), 0)
    prepare(moved, tmp_path / "ready", Config(seed=9))  # with another split of its own
    assert measured(tmp_path / "ready", state)[0] == held
    shutil.copytree(moved / "iris", moved / "iris" / "again")
    assert measured(moved, state)[0] == held, "copies are measured as often as they were held out"


def test_missing_changed_and_new_photographs_are_counted(photos: Path) -> None:
    state = run_on(load_dataset(photos, CONFIG))
    first, second, *rest = state.held_out["names"]
    (photos / first).unlink()
    (photos / second).write_bytes((photos / second).read_bytes() + b"edited")
    draw_classes(photos, COLOURS, 2, size=16, first=20)
    names, result = measured(photos, state)
    assert (names, result.lacking) == (set(rest), 2)
    assert result.notes == (
        "of 6 held-out photographs 1 missing, 1 changed (same name, other content); "
        "measured on the other 4",
        "5 new since the training, or unreadable then, are not measured",
    )


def test_without_held_out_photographs_others_are_measured_and_labelled(
    photos: Path, tmp_path: Path
) -> None:
    state = run_on(load_dataset(photos, CONFIG))
    others = draw_classes(tmp_path / "elsewhere" / "photos", COLOURS, 4, size=16, first=50)
    trained = next(
        p for p in sorted(photos.glob("iris/*")) if f"iris/{p.name}" not in state.held_out["names"]
    )
    shutil.copy(trained, others / "iris" / "seen.png")
    names, result = measured(others, state)
    assert (len(names), "iris/seen.png" in names, result.kind) == (8, False, OTHERS)
    note = "none of the run's 6 held-out photographs; measured on 8 others, 1 training photographs left out"
    assert result.notes == (note,)
    for name in state.held_out["names"]:
        (photos / name).unlink()
    names, result = measured(photos, state)
    assert (len(names), result.kind) == (14, TRAINING)
    assert "measured on training photographs" in result.notes[0]
    assert len(load_some_training(photos, record_of(state), 256)) == 14
    (others / "iris" / "seen.png").unlink()
    with pytest.raises(DataError, match="holds none of the photographs that the run was trained on"):
        load_some_training(others, record_of(state), 256)


def test_a_model_file_finds_its_photographs_by_digest(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset = load_dataset(photos, CONFIG)
    entry = measured_on.measured_on(dataset.val.digests, ["a note"])
    digests, of_all = read_measured_on({"measured_on": entry})
    assert digests is not None
    assert (sorted(dataset.val.digests.tolist()), of_all) == (digests.tolist(), None)
    assert "iris" not in str(entry)
    assert torch.equal(earlier_of_file({"measured_on": entry}, "a.onnx").held_out, digests)
    # They are the training part of another tree, beside a val/ without any of them.
    (tmp_path / "divided").mkdir()
    data = photos.rename(tmp_path / "divided" / "train")
    draw_classes(tmp_path / "divided" / "val", COLOURS, 2, size=16, first=70)
    none = torch.empty(0, dtype=torch.int64)
    run = {"split": dataset.split}
    record = Record(dataset.classes, CONFIG.recipe, run, digests, none)
    result = load_held_out(tmp_path / "divided", record)
    assert (set(result.split.names), result.lacking, result.notes) == (set(dataset.val.names), 0, ())
    monkeypatch.setattr(measured_on, "MAX_DIGESTS", 5)
    digest = measured_on.measured_on(dataset.val.digests)["digest_of_all"]
    assert digest == digest_of_all(digests)
    large = Record(dataset.classes, CONFIG.recipe, run, None, none, digest_of_all=digest)
    assert set(load_held_out(data, large).split.names) == set(dataset.val.names)
    (data / dataset.val.names[0]).unlink()
    with pytest.raises(DataError, match="does not hold exactly the photographs that its accuracy"):
        load_held_out(data, large)
    with pytest.raises(DataError, match=r"training.measured_on is damaged"):
        read_measured_on({"measured_on": {**entry, "photographs": 7}})


def test_held_out_photographs_are_found_in_train_too(photos: Path, tmp_path: Path) -> None:
    """The tree was divided by hand since, with held-out photographs on both sides."""
    state = run_on(load_dataset(photos, CONFIG))
    divided = tmp_path / "divided"
    shutil.copytree(photos, divided / "train")
    (divided / "val" / "iris").mkdir(parents=True)
    one = next(name for name in state.held_out["names"] if name.startswith("iris"))
    (divided / "train" / one).rename(divided / "val" / one)
    prepare(divided, tmp_path / "ready", CONFIG)
    for folder in (divided, tmp_path / "ready"):
        names, result = measured(folder, state)
        assert (names, result.kind, result.notes) == (set(state.held_out["names"]), VALIDATION, ())


def test_runs_without_a_record_are_measured_on_all_photographs(photos: Path, tmp_path: Path) -> None:
    state = Checkpoint(CONFIG, ("iris", "rose"), [0.0] * 3, [1.0] * 3, {})
    of_older = replace(state, provenance={"data": "photos", "images": 15, "split": None})
    prepare(photos, tmp_path / "ready", CONFIG)
    for folder in (photos, tmp_path / "ready"):
        for run, kind in ((of_older, UNKNOWN), (state, VALIDATION)):
            names, result = measured(folder, run)
            assert (len(names), result.kind) == (20, kind)
            assert result.notes[0].endswith("which photographs it held out; measured on all 20 here")
    assert len(load_some_training(photos, record_of(of_older), 12)) == 12
    shutil.copytree(photos, tmp_path / "divided" / "val")
    assert measured(tmp_path / "divided", of_older)[1].kind == VALIDATION


@pytest.mark.slow  # 15 s
def test_every_command_reports_which_photographs_it_measured(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def output_of(*command: str | Path, code: int = 0) -> str:
        assert main([str(word) for word in command]) == code
        captured = capsys.readouterr()
        return captured.out + captured.err

    run, model = tmp_path / "run", tmp_path / "model.onnx"
    assert train(photos, run, "--val-fraction", "0.3") == 0
    text = capsys.readouterr().out
    assert re.search(r"class +train +validation\niris +7 +3\nrose +7 +3\n14 images to train on, 6 to", text)
    data = photos.rename(tmp_path / os.fsdecode(b"caf\xe9"))
    evaluation: list[str | Path] = ["evaluate", run, "--device", "cpu", "--data"]
    assert "6 images, 1 crop(s) each, 0 skipped\n" in output_of(*evaluation, data)
    output_of("export", run, "--out", model, "--data", data)
    _model, manifest = read_model(model)
    assert manifest.metrics[0].data == "caf\\xe9 (validation)"
    inspected = output_of("inspect", model)
    assert "measured_on photographs 6, notes []" in inspected
    assert manifest.training["measured_on"]["digests"] not in inspected
    held = checkpoint.load(run / "last.pt").held_out["names"]
    (data / held[0]).unlink()
    refused = output_of("verify", model, "--data", data, code=1)
    assert "was measured on 6 photographs, of which 1 are missing or changed" in refused
    assert "note: of 6 held-out photographs 1 missing; measured on the other 5" in output_of(
        "report", run, "--data", data
    )
    for name in held[1:]:
        (data / name).unlink()
    lines = output_of(*evaluation, data).splitlines()
    assert all("training photographs" in line for line in lines if re.search(r"\d%|images", line))
    output_of("export", run, "--out", model, "--data", data)
    assert "3 images" not in (text := output_of("verify", model, "--data", data))
    assert text.count("images (training photographs): top-1") == 2
    start = read_start(str(model), 0.05)
    assert earlier_of_file(start.provenance, "it").held_out.tolist() == [], (
        "its training photographs are not held out"
    )
    assert "cannot be read: Is a directory; name a file written by" in output_of(
        "verify", run, "--data", data, code=1
    )
    gone = output_of("report", run, code=1)
    assert "which is gone; add --data DIR with its new place" in gone
    assert gone == output_of("train", "--resume", "--out", run, code=1)
    assert train(data, tmp_path / os.fsdecode(b"run\xe9")) == 1
    assert "run\\xe9, which is not UTF-8" in capsys.readouterr().err
