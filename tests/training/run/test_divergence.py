"""A diverged run stops with the step and advice, and keeps its last finite weights."""

import re
from pathlib import Path

import pytest
from torch.optim.optimizer import Optimizer, register_optimizer_step_post_hook

from tests.support.runs import train
from training.__main__ import main
from training.config import Config
from training.errors import Diverged
from training.run import checkpoint
from training.run.divergence import HINT_EPOCH, RETURN_STEPS, LossWatch

# Recorded losses: the paper's recipe at full width on 160 photographs of 5 classes, one step per epoch.
RISEN = [2.992, 19.699, 34.99, 23.631, 11.944, 5.711, 5.07, 2.315, *[1.641, 1.624, 1.619, 1.664] * 30]
# AdamW at 0.001 without a warm-up, on the same; the paper's on 1000 classes of noise, where it falls.
LEARNS = [
    1.63,
    2.262,
    1.778,
    1.605,
    1.521,
    1.48,
    1.291,
    1.531,
    1.566,
    1.407,
    1.241,
    1.465,
    1.254,
    *[1.1] * 50,
]
NOISE = [7.27, 6.99, 6.51, 6.18, 6.24, 6.05]


def stopped_at(losses: list[float], classes: int, steps: int = 1, start: int = 1) -> tuple[int, str]:
    """Return the step, counted from 1, and the message; (0, "") if the run is not stopped."""
    watch = LossWatch(Config(), classes, steps)
    for step, loss in enumerate(losses, start):
        try:
            watch.check(step, loss, scale=1.0)
        except Diverged as error:
            return step, str(error)
    return 0, ""


def test_a_loss_that_rose_and_stays_above_guessing_stops_a_run() -> None:
    step, output = stopped_at(RISEN, 5)
    assert step == 3 + RETURN_STEPS
    assert output.startswith(
        f"step {step} (epoch {step} of 90): the loss rose to 35 by step 3, is 1.62 now"
    )
    assert "guessing since, 1.61 for 5 classes" in output
    assert "a lower --lr (it is 0.01), --clip-norm 1 or --recipe modern" in output
    assert stopped_at([8.0] * 100, 5)[0] == 3 + RETURN_STEPS, "it stays high"
    assert stopped_at([2.0] * 500 + [90.0] * 100, 5)[0] == 501 + RETURN_STEPS, "it rises late"


@pytest.mark.parametrize(
    ("losses", "classes", "steps"),
    [
        (LEARNS, 5, 1),
        (NOISE + [5.5] * 100, 1000, 1),
        ([6.9, 6.95, 6.91, 6.92] * 10_000, 1000, 10_000),  # the paper's, on ImageNet, is flat at first
        ([0.69, 0.75, 0.8, 0.68] * 100, 2, 1),
        ([1.0] * 100 + [30.0] + [1.2] * 100, 5, 1),  # one bad batch
        ([2.0, 9.0, 12.0, 8.0, 5.0, 3.0, 2.0, *[1.4] * 100], 5, 1),  # a spike, after which it learns
        (RISEN[:60] + [1.0] * 200, 5, 40),  # it recovers within two epochs of many steps
    ],
)
def test_runs_that_learn_are_not_stopped(losses: list[float], classes: int, steps: int) -> None:
    assert stopped_at(losses, classes, steps) == (0, "")


def test_nan_and_a_collapsed_loss_scale_stop_a_run_at_once() -> None:
    assert stopped_at([1.0, float("nan")], 5)[0] == 2
    assert stopped_at([1.0, 1.0, float("inf")], 5)[0] == 3
    watch = LossWatch(Config(precision="fp16"), 5, 10)
    watch.check(1, 1.0, 65536.0)
    with pytest.raises(Diverged, match=r"step 2 .*too large for fp16.* or --precision bf16"):
        watch.check(2, 1.0, 1e-5)


def test_a_flat_loss_gets_one_hint() -> None:
    watch = LossWatch(Config(), 5, 1)
    hints = [watch.hint(epoch, 1.6) for epoch in range(1, 91)]
    assert [epoch for epoch, hint in enumerate(hints, 1) if hint] == [HINT_EPOCH]
    assert "try a lower --lr" in hints[HINT_EPOCH - 1]
    assert not watch.hint(HINT_EPOCH, 1.2)
    assert not watch.hint(HINT_EPOCH, 4.75), "that is not the loss of guessing"


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_a_far_too_high_rate_stops_the_run_with_finite_weights(
    photographs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], precision: str
) -> None:
    run = tmp_path / "run"
    options = ["--epochs", "9", "--lr", "100000", "--weight-init", "kaiming", "--precision", precision]
    assert train(photographs, run, *options) == 1
    output = capsys.readouterr().err
    assert re.search(r"error: step \d+ \(epoch \d of 9\): the .* Try a lower --lr \(it is 100000\)", output)
    assert ("--precision bf16" in output) == (precision == "fp16")
    for path in run.glob("*.pt"):
        state = checkpoint.load(path)
        assert all(values.isfinite().all() for values in state.model.values()), path
    assert checkpoint.load(run / "last.pt").step < 9


def test_weights_with_nan_are_neither_saved_nor_used(
    photographs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A single update breaks the weights, which no loss shows; large weights give NaN outputs."""
    for value in (float("nan"), 1e38):
        run = tmp_path / str(value)

        def break_weights(optimizer: Optimizer, *_arguments: object, value: float = value) -> None:
            optimizer.param_groups[0]["params"][0].data.fill_(value)

        with register_optimizer_step_post_hook(break_weights):
            assert train(photographs, run, "--batch-size", "12") == 1
        output = capsys.readouterr().err
        assert re.search(r"step 1 \(epoch 1 of 1\): the (weights|network's outputs) hold NaN", output)
        assert not (run / "best.pt").exists()
        assert all(v.isfinite().all() for v in checkpoint.load(run / "last.pt").model.values())

    bad = checkpoint.load(run / "last.pt")
    bad.model["conv1.bias"].fill_(float("nan"))
    checkpoint.save(bad, tmp_path / "bad.pt")
    command = ["evaluate", str(tmp_path / "bad.pt"), "--data", str(photographs), "--device", "cpu"]
    assert main(command) == 1
    assert "bad.pt holds NaN or infinity" in capsys.readouterr().err
    assert train(photographs, tmp_path / "next", "--weights", str(tmp_path / "bad.pt")) == 1
    assert "bad.pt holds NaN or infinity" in capsys.readouterr().err
