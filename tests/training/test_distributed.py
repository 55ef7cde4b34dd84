"""Two processes of torchrun train like one process with the same batch, and count each image once."""

import csv
import os
import signal
import socket
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

import pytest
import torch

from tests.support.checkout import ROOT
from tests.support.drawing.pictures import draw_classes
from training.__main__ import main
from training.run import checkpoint
from training.run.signals import INTERRUPTED

# 16 pictures in batches of 8: 2 steps per epoch. Without dropout, two processes draw what one draws.
OPTIONS = [
    *("--recipe", "paper", "--width", "0.05", "--epochs", "3", "--batch-size", "8", "--device", "cpu"),
    "--no-dropout",
]
LEARNS = ["--weight-init", "kaiming", "--lr", "0.003", "--augment", "strong"]
TOLERANCE = 1e-4  # of the loss, relative: sums of floats in another order


@pytest.fixture(scope="module")
def colours(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Draw 16 training pictures and 5 validation pictures, which two processes share unequally."""
    root = tmp_path_factory.mktemp("colours")
    chosen = {"red": (190, 60, 50), "teal": (40, 140, 150)}
    draw_classes(root / "train", chosen, 8)
    draw_classes(root / "val", chosen, 2, first=8)
    draw_classes(root / "val", {"red": chosen["red"]}, 1, first=10)
    return root


def torchrun(data: Path, out: Path, *options: str) -> subprocess.Popen[str]:
    return launched("-m", "training", "train", "--data", str(data), "--out", str(out), *OPTIONS, *options)


def launched(*arguments: str) -> subprocess.Popen[str]:
    """Start two processes that run `arguments`."""
    command = ["-m", "torch.distributed.run", "--nproc-per-node", "2", "--rdzv-backend", "c10d"]
    command += ["--rdzv-endpoint", "127.0.0.1:0", "--local-addr", "127.0.0.1"]
    return started([*command, *arguments])


def started(arguments: list[str], **of_rank: str) -> subprocess.Popen[str]:
    """Start a Python process; with RANK and MASTER_PORT, one of two, as torchrun would start it."""
    place = {
        "WORLD_SIZE": "2",
        "LOCAL_WORLD_SIZE": "2",
        "TORCHELASTIC_RUN_ID": "none",
        "MASTER_ADDR": "127.0.0.1",
    }
    threads = {"OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo", "PYTHONUNBUFFERED": "1"}
    return subprocess.Popen(
        [sys.executable, *arguments],
        cwd=ROOT,
        env={**os.environ, **threads, **((place | of_rank) if of_rank else {})},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def curve(run: Path) -> list[tuple[float, float, float]]:
    with (run / "metrics.csv").open() as file:
        return [(float(r["loss"]), float(r["top1"]), float(r["top5"])) for r in csv.DictReader(file)]


@pytest.mark.parametrize(
    "more",
    [
        pytest.param(LEARNS, id="plain"),
        pytest.param([*LEARNS, "--accumulate", "2"], id="accumulated", marks=pytest.mark.slow),
    ],
)
def test_two_processes_give_the_curve_of_one_with_the_same_batch(
    colours: Path, tmp_path: Path, more: list[str]
) -> None:
    with torchrun(colours, tmp_path / "two", *more) as process:
        output, _ = process.communicate(timeout=100)
    assert process.returncode == 0, output
    assert output.count("best: top-1") == 1, "only the main process prints"
    assert "Warning" not in output
    assert "2 steps an epoch, 2 x cpu" in output
    exclusive = ["train", "--data", str(colours), "--out", str(tmp_path / "one"), *OPTIONS, *LEARNS]
    assert main(exclusive) == 0
    for ours, theirs in zip(curve(tmp_path / "two"), curve(tmp_path / "one"), strict=True):
        assert ours == pytest.approx(theirs, rel=TOLERANCE)
    two, one = (checkpoint.load(tmp_path / name / "last.pt") for name in ("two", "one"))
    assert two.metrics["images"] == one.metrics["images"] == 5, "nothing padded or lost"
    for name, values in one.model.items():
        torch.testing.assert_close(two.model[name], values, rtol=1e-3, atol=1e-5)


def test_a_signal_to_one_process_stops_both_with_one_checkpoint(colours: Path, tmp_path: Path) -> None:
    """The processes are started without torchrun, which would end the other one itself."""
    run = tmp_path / "run"
    command = ["-m", "training", "train", "--data", str(colours), "--out", str(run), *OPTIONS, *LEARNS]
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = str(free.getsockname()[1])
    with ExitStack() as both:
        processes = []
        for rank in ("0", "1"):
            process = started([*command, "--epochs", "5000"], RANK=rank, MASTER_PORT=port)
            processes.append(both.enter_context(process))
            both.callback(process.kill)  # if it does not stop
        first, second = processes
        assert first.stdout is not None
        for line in first.stdout:
            if line.startswith("epoch 1/"):
                break
        second.send_signal(signal.SIGTERM)
        output, _ = first.communicate(timeout=60)
        second.communicate(timeout=60)
    assert (first.returncode, second.returncode) == (INTERRUPTED, INTERRUPTED), output
    assert "saved; go on with --resume" in output
    state = checkpoint.load(run / "last.pt")
    assert (run / f"step-{state.step}.pt").is_file()


@pytest.mark.slow
def test_divergence_stops_both_processes(colours: Path, tmp_path: Path) -> None:
    with torchrun(colours, tmp_path / "run", "--weight-init", "kaiming", "--lr", "1e5") as process:
        output, _ = process.communicate(timeout=100)
    assert process.returncode == 1
    assert "Try a lower --lr (it is 100000)" in output
    state = checkpoint.load(tmp_path / "run" / "last.pt")
    assert all(values.isfinite().all() for values in state.model.values())


def test_a_batch_that_cannot_be_shared_equally_is_refused(
    colours: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["train", "--data", str(colours), "--out", str(tmp_path / "run"), *OPTIONS]
    assert main([*command, "--accumulate", "3"]) == 2
    assert "--batch-size is 8; it must be a multiple of accumulate, 3" in capsys.readouterr().err


# One process is slower and has less memory than the other.
PLANS = """
import sys, time
from training.cli import launch
from training.__main__ import main
from torch.distributed import get_rank

measured = launch._free_memory
launch._free_memory = lambda ranks: measured(ranks) / (1 + 10**9 * ranks.rank)
located = launch.require_plain_path
launch.require_plain_path = lambda out: time.sleep(3 * get_rank()) or located(out)
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.slow
def test_processes_with_different_speed_and_memory_plan_the_same_run(colours: Path, tmp_path: Path) -> None:
    (tmp_path / "plans.py").write_text(f"import sys; sys.path.insert(0, {str(ROOT)!r})\n{PLANS}")
    options = ["--width", "0.05", "--device", "cpu", "--time", "6s"]
    options += ["--data", str(colours), "--out", str(tmp_path / "run")]
    with launched(str(tmp_path / "plans.py"), "train", *options) as processes:
        try:
            output, _nothing = processes.communicate(timeout=90)
        finally:
            processes.terminate()  # torchrun ends its processes
    assert processes.returncode == 0, output
    state = checkpoint.load(tmp_path / "run" / "last.pt")
    assert state.epoch == state.config.epochs
