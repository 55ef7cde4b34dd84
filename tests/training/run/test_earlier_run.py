"""Recorded photographs: a run resumes with the same ones, and later runs keep the division."""

import shutil
from pathlib import Path

import pytest
import torch

from tests.support.drawing.pictures import draw_classes
from tests.support.held_out import COLOURS, CONFIG, measured, run_on
from training.cli.overview import overview
from training.config import Config
from training.data import measured_on
from training.data.measured_on import (
    PARTLY,
    UNKNOWN,
    VALIDATION,
)
from training.data.prepared import load_dataset, prepare
from training.errors import CheckpointError
from training.run.checkpoint import Checkpoint
from training.start.record import (
    earlier_of,
    earlier_of_file,
    earlier_of_itself,
    require_same_photographs,
)


def test_a_run_resumes_only_with_the_same_photographs(photos: Path, tmp_path: Path) -> None:
    state = run_on(load_dataset(photos, CONFIG))
    itself = earlier_of_itself(state, photos)

    def refused() -> str:
        with pytest.raises(CheckpointError, match=r"started with other photographs.*--from") as raised:
            require_same_photographs(state, load_dataset(photos, CONFIG, earlier=itself), photos)
        return str(raised.value)

    (photos / "notes.txt").write_text("no picture")
    (photos / "iris" / "broken.png").write_bytes(b"no picture")
    require_same_photographs(state, load_dataset(photos, CONFIG, earlier=itself), photos)
    moved = photos / next(n for n in load_dataset(photos, CONFIG).train.names if n.startswith("iris"))
    moved.rename(photos / "iris" / "zzz.png")
    assert "the same ones under other names or in other classes" in refused()
    (photos / "iris" / "zzz.png").rename(photos / "rose" / "zzz.png")
    assert "under other names or in other classes" in refused()
    (photos / "rose" / "zzz.png").rename(moved)
    held_out_file = photos / state.held_out["names"][0]
    content = held_out_file.read_bytes()
    held_out_file.unlink()
    assert f"1 removed (such as {state.held_out['names'][0]})" in refused()
    held_out_file.write_bytes(content + b"edited")
    assert f"1 changed (such as {state.held_out['names'][0]})" in refused()
    held_out_file.write_bytes(content)
    draw_classes(photos, {"rose": (9, 9, 9)}, 2, size=16, first=30)
    assert "2 added (such as rose/030.png)" in refused().replace("031", "030")


def test_a_run_from_another_keeps_its_held_out_photographs(photos: Path, tmp_path: Path) -> None:
    state = run_on(load_dataset(photos, CONFIG))
    held = set(state.held_out["names"])
    draw_classes(photos, COLOURS, 4, size=16, first=20)
    earlier = earlier_of(state, "runs/first")
    prepare(photos, tmp_path / "ready", Config(seed=8))
    datasets = [
        load_dataset(folder, Config(seed=8), earlier=earlier) for folder in (photos, tmp_path / "ready")
    ]
    for dataset in datasets:
        assert held <= set(dataset.val.names)
        assert not torch.isin(dataset.val.digests, state.trained_on).any()
        assert dataset.warnings == ()
    assert torch.equal(datasets[0].mean, datasets[1].mean)
    third = run_on(datasets[0])
    assert torch.equal(third.trained_before, state.trained_on)
    divided = tmp_path / "divided"
    shutil.copytree(photos, divided / "train")
    (divided / "val" / "iris").mkdir(parents=True)
    for path in sorted((divided / "train" / "iris").iterdir())[:10]:
        path.rename(divided / "val" / "iris" / path.name)
    dataset = load_dataset(divided, CONFIG, earlier=earlier)
    assert "7 of 10 validation photographs are among those that runs/first was trained on" in overview(
        dataset
    )
    seen = run_on(dataset)
    result = measured(divided, seen)[1]
    assert (result.kind, len(result.split)) == (PARTLY, 10)
    assert result.notes == ("7 of 10 held-out photographs were trained on, here or before",)
    unknown = earlier_of(Checkpoint(CONFIG, (), [], [], {}, provenance={"images": 5}), "runs/old")
    dataset = load_dataset(divided, CONFIG, earlier=unknown)
    assert "runs/old does not record" in overview(dataset)
    second = run_on(dataset)
    assert measured(divided, second)[1].kind == UNKNOWN
    dataset = load_dataset(divided, CONFIG, earlier=earlier_of(second, "runs/second"))
    assert measured(divided, run_on(dataset))[1].kind == UNKNOWN, "a run from that one does not either"
    file = earlier_of_file({"measured_on": measured_on.measured_on(dataset.val.digests)}, "a.onnx")
    dataset = load_dataset(divided, CONFIG, earlier=file)
    assert dataset.warnings == (), "a file's validation photographs were not trained on"
    assert measured(divided, run_on(dataset))[1].kind == VALIDATION
