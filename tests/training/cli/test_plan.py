"""The settings that `train` chooses from the photographs, the machine and the given options."""

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from training.__main__ import main
from training.cli import plan as plan_module
from training.cli.plan import Plan, choose, computes_bf16, fit_epochs
from training.config import Config
from training.data.images import Split
from training.distributed import Ranks
from training.run import checkpoint
from training.start.weights import base_widths

CPU = Ranks(torch.device("cpu"))
MUCH = 64e9  # bytes of free memory


@pytest.fixture(autouse=True)
def _few_sampled_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Measure fine detail on 4 pictures instead of 200; they are all the same here."""
    monkeypatch.setattr(plan_module, "_SAMPLED_PICTURES", 4)


NOISE = torch.randint(256, (1, 256, 256, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def split_of(photographs: int, square: Tensor = NOISE) -> Split:
    """Make a split of so many copies of one picture."""
    rows = torch.zeros(photographs, dtype=torch.int64)
    return Split(square, rows, rows, rows, ("",) * photographs)


def planned(
    photographs: int, start: str | None = None, ranks: Ranks = CPU, memory: float = MUCH, **overrides: Any
) -> Plan:
    return choose(overrides, start, split_of(photographs), ranks=ranks, free_bytes=memory)


def test_few_photographs_start_from_the_base_network() -> None:
    plan = planned(160)
    assert (plan.start, plan.config.width, plan.config.image_size) == ("base", min(base_widths()), 224)
    assert "160 photographs are few" in plan.reason
    assert planned(160, ranks=Ranks(torch.device("cuda"))).config.width == max(base_widths())


def test_bfloat16_is_chosen_only_where_the_device_computes_it() -> None:
    assert not computes_bf16({"avx2": True, "avx512_bf16": False, "amx_bf16": False})
    assert computes_bf16({"avx2": True, "avx512_bf16": True, "amx_bf16": False})
    assert planned(160).config.precision == ("bf16" if computes_bf16() else "fp32")
    assert planned(160, ranks=Ranks(torch.device("cuda"))).config.precision == "bf16"
    assert planned(160, precision="bf16").config.precision == "bf16"


def test_larger_sets_get_more_steps_but_fewer_epochs() -> None:
    seen = [count * planned(count).config.epochs for count in (160, 850, 5_000, 50_000, 150_000)]
    assert seen == sorted(seen)
    epochs = [planned(count).config.epochs for count in (5_000, 50_000, 150_000)]
    assert epochs == sorted(epochs, reverse=True)


@pytest.mark.parametrize(
    ("photographs", "overrides", "reason"),
    [
        (1_000_000, {}, "1,000,000 photographs are enough"),
        (160, {"width": "0.05"}, "no base network of width 0.05"),
        (160, {"activation": "tanh"}, "no base network of activation tanh"),
        (160, {"lrn": False}, "no base network of lrn False"),
    ],
)
def test_without_a_fitting_base_network_a_run_starts_from_scratch(
    photographs: int, overrides: dict[str, Any], reason: str
) -> None:
    plan = planned(photographs, **overrides)
    assert plan.start == "scratch"
    assert reason in plan.reason
    assert plan.config.epochs == 90, "as in the recipe modern"


def test_pictures_without_fine_detail_lower_the_rate_of_convolutions() -> None:
    small = NOISE[:, :12, :12].permute(0, 3, 1, 2).float()
    enlarged = F.interpolate(small, (256, 256), mode="bilinear").permute(0, 2, 3, 1).byte()
    blurred = split_of(600, enlarged)
    plan = choose({}, None, blurred, ranks=CPU, free_bytes=MUCH)
    assert plan.config.conv_lr == 0.1
    assert "show no more than 64 pixels would" in plan.reason
    assert choose({"conv_lr": "0.5"}, None, blurred, ranks=CPU, free_bytes=MUCH).config.conv_lr == 0.5
    assert choose({}, "scratch", blurred, ranks=CPU, free_bytes=MUCH).config.conv_lr == 1
    assert planned(600).config.conv_lr == 1


def test_given_settings_are_not_changed() -> None:
    plan = planned(160, epochs="3", batch_size="7", lr="0.5")
    assert (plan.config.epochs, plan.config.batch_size, plan.config.lr) == (3, 7, 0.5)
    assert plan.config.warmup_epochs == 0.75, "a quarter of the epochs"
    assert planned(160, epochs="3", warmup_epochs="2").config.warmup_epochs == 2
    assert (plan.start, plan.config.optimizer) == ("base", "adamw")
    assert planned(160, "scratch").start == "scratch"
    assert planned(1_000_000, "base").start == "base"


def test_batches_fit_into_memory_and_divide_evenly() -> None:
    large = planned(5_000).config.batch_size
    assert large == 128
    assert planned(5_000, memory=2.5e9, width="1").config.batch_size < large
    assert planned(5_000, memory=0).config.batch_size == 8, "the minimum is tried"
    for world in (3, 6):
        assert planned(160, ranks=Ranks(torch.device("cpu"), 0, world)).config.batch_size % world == 0


def test_epochs_are_fitted_into_the_time() -> None:
    config = Config(epochs=20, warmup_epochs=2.0)
    assert fit_epochs(config, 100.0, 9.5).epochs == 10
    few = fit_epochs(config, 10.0, 5.0)
    assert (few.epochs, few.warmup_epochs) == (1, 0.25)
    assert fit_epochs(config, -1.0, 5.0).epochs == 1


def test_a_run_prints_its_choices_and_creates_its_folder(
    photographs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    command = ["train", "--data", str(photographs), "--width", "0.05", "--device", "cpu"]
    assert main([*command, "--epochs", "1"]) == 0
    output = capsys.readouterr().out
    lines = [line.split()[0] for line in output.splitlines() if line[8:9] == " " and line[9:10] != " "]
    assert [word for word in lines if word in {"start", "network", "images", "epochs", "time"}] == [
        *("start", "network", "images", "epochs", "time")
    ]
    assert "from scratch, as there is no base network of width 0.05" in output
    assert f"now: python -m training export runs/{photographs.name}" in output.replace("'", "")
    state = checkpoint.load(tmp_path / "runs" / photographs.name / "last.pt")
    assert (state.config.optimizer, state.config.batch_size, state.epoch) == ("adamw", 128, 1)

    assert main([*command, "--time", "0.01s"]) == 0
    assert "1, which fit into" in capsys.readouterr().out
    assert checkpoint.load(tmp_path / "runs" / f"{photographs.name}-2" / "last.pt").epoch == 1
    assert main(["train", "--resume", "--time", "5m", "--out", f"runs/{photographs.name}"]) == 1
    assert "--time is for a new run" in capsys.readouterr().err
    assert main(["train", "--resume"]) == 1
    assert "--out is missing" in capsys.readouterr().err
