"""Test how WORKERS=auto is derived from cores, GPUs and memory, and that as many workers serve."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from service.server.worker_count import choose_workers, visible_gpus, worker_bytes
from service.settings import Settings
from tests.support.eventually import eventually
from tests.support.serving.images import plain
from tests.support.serving.server import metrics, serving


@pytest.fixture(autouse=True)
def no_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)


def machine(root: Path, gpus: int = 0, gigabytes: float | None = None) -> Path:
    """Write the files of a machine below `root`; return it."""
    for name in ("dev/nvidiactl", "dev/nvidia-uvm", *(f"dev/nvidia{number}" for number in range(gpus))):
        (root / name).parent.mkdir(exist_ok=True)
        (root / name).touch()
    if gigabytes is not None:
        (root / "proc").mkdir()
        (root / "proc/meminfo").write_text(f"MemTotal: {int(gigabytes * 1e9 / 1024)} kB\n")
    return root


@pytest.mark.parametrize(
    ("cores", "gpus", "gigabytes", "settings", "text"),
    [
        (16, 0, 128, {}, "8 workers for 16 cores"),
        (16, 1, 128, {}, "8 workers for 16 cores"),
        (16, 1, None, {}, "8 workers for 16 cores"),
        (5, 0, 128, {}, "2 workers for 5 cores"),
        (2, 1, 128, {}, "1 worker for 2 cores"),
        (1, 0, 128, {}, "1 worker for 1 core"),
        (4, 8, 128, {}, "8 workers for 8 GPUs"),
        (4, 8, 4, {}, "8 workers for 8 GPUs"),
        (1, 1, 4, {}, "1 worker for 1 GPU"),
        (4, 8, 128, {"DEVICE": "cpu"}, "2 workers for 4 cores"),
        (16, 0, 4, {}, "3 workers for 4.0 GB of memory"),
        (16, 0, 0.5, {}, "1 worker for 0.5 GB of memory"),
        (16, 1, 25.8, {}, "8 workers for 16 cores"),
        (32, 1, 25.8, {}, "9 workers for 25.8 GB of memory"),
        (16, 0, 4, {"MAX_QUEUE_BYTES": "20000000"}, "5 workers for 4.0 GB of memory"),
        (16, 0, 6.1, {"DECODE_PROCESSES": "2"}, "3 workers for 6.1 GB of memory"),
    ],
)
def test_auto_is_a_number_with_its_reason(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    cores: int,
    gpus: int,
    gigabytes: float | None,
    settings: dict[str, str],
    text: str,
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _process: set(range(cores)))
    auto = Settings.from_environ({"WORKERS": "auto", **settings})
    chosen, reason = choose_workers(auto, machine(tmp_path, gpus, gigabytes))
    assert reason == text
    assert chosen == auto.model_copy(update={"workers": int(text.split()[0])})


@pytest.mark.parametrize(("number", "text"), [(1, ""), (3, "3 workers")])
def test_a_number_is_kept(number: int, text: str) -> None:
    settings = Settings.from_environ({"WORKERS": str(number)})
    assert choose_workers(settings) == (settings, text)


def test_memory_of_a_worker_grows_with_its_limits() -> None:
    settings = Settings()
    assert worker_bytes(settings, on_gpu=False) == 300_000_000 + 500_000_000 + 6 * 67_000_000
    more = settings.model_copy(update={"max_queue_bytes": 600_000_000})
    assert worker_bytes(more, on_gpu=False) == worker_bytes(settings, on_gpu=False) + 100_000_000
    assert worker_bytes(settings, on_gpu=True) > worker_bytes(settings, on_gpu=False)


@pytest.mark.parametrize(
    ("value", "gpus"),
    [
        ("3,5", ["3", "5"]),
        ("1, 0", ["1", "0"]),
        ("GPU-8f,MIG-77", ["GPU-8f", "MIG-77"]),
        ("0,-1,1", ["0"]),
        ("-1", []),
        ("", []),
        ("NoDevFiles", []),
    ],
)
def test_cuda_visible_devices_names_the_gpus(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, value: str, gpus: list[str]
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", value)
    assert visible_gpus(machine(tmp_path, gpus=4)) == gpus


def test_gpus_of_a_container_are_its_device_files(tmp_path: Path) -> None:
    for name in ("0000:18:00.0", "0000:2a:00.0"):
        (tmp_path / "proc/driver/nvidia/gpus" / name).mkdir(parents=True)
    assert visible_gpus(tmp_path) == ["0", "1"]  # a host on which CUDA has not been used yet
    (tmp_path / "dev").mkdir()
    (tmp_path / "dev/nvidia1").touch()
    assert visible_gpus(tmp_path) == ["0"]  # CUDA counts from 0
    assert visible_gpus(tmp_path / "none") == []


def test_auto_serves_on_this_machine(model_file: Path, tmp_path: Path) -> None:
    auto = Settings.from_environ({"WORKERS": "auto", "DEVICE": "cpu"})
    chosen, reason = choose_workers(auto)
    with serving(tmp_path / "log", model_file, workers="auto") as server:
        assert f"(CPUExecutionProvider, {reason})" in server.ready_line
        eventually(lambda: metrics(server)["alexnet_workers"] == chosen.workers)
        assert server.client.post("/predict", content=plain(9)).status_code == 200


@pytest.fixture
def one_core() -> Iterator[None]:
    """Limit this process, and those that it starts, to one core."""
    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(cores)})
    yield
    os.sched_setaffinity(0, cores)


@pytest.mark.usefixtures("one_core")
def test_auto_starts_a_worker_for_each_gpu(
    monkeypatch: pytest.MonkeyPatch, model_file: Path, tmp_path: Path
) -> None:
    """The GPUs do not exist, so the workers use the CPU."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,7")
    with serving(tmp_path / "log", model_file, workers="auto", device="auto") as server:
        assert "(CPUExecutionProvider, 2 workers for 2 GPUs)" in server.ready_line
        eventually(lambda: metrics(server)["alexnet_workers"] == 2)
        variables = [
            Path(f"/proc/{pid}/environ").read_text().split("\0")
            for pid in Path(f"/proc/{server.process.pid}/task/{server.process.pid}/children")
            .read_text()
            .split()
        ]
        assert ["WORKERS=2" in names for names in variables] == [True, True]
        gpus = [name for names in variables for name in names if name.startswith("CUDA_VISIBLE_DEVICES=")]
        assert gpus == ["CUDA_VISIBLE_DEVICES=4", "CUDA_VISIBLE_DEVICES=7"]
        assert server.client.post("/predict", content=plain(9)).status_code == 200
