"""Test thread priorities and pinning of threads to cores."""

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from service.host import DECODE_NICE, SLOW_DECODE_NICE, pin_thread
from tests.support.serving.images import plain
from tests.support.serving.server import serving

THREADS = 2
several_cores = pytest.mark.skipif(
    not hasattr(os, "sched_getaffinity") or len(os.sched_getaffinity(0)) < 2, reason="only one core"
)


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="only Linux has priorities of threads")
def test_computing_threads_have_a_lower_priority_than_the_event_loop(
    model_file: Path, tmp_path: Path
) -> None:
    with serving(tmp_path / "log", model_file, threads=THREADS) as server:
        assert server.client.post("/predict", content=plain(1)).status_code == 200
        pid = server.process.pid
        nice = {
            int(task.name): os.getpriority(os.PRIO_PROCESS, int(task.name))
            for task in Path(f"/proc/{pid}/task").iterdir()
        }
        default = os.getpriority(os.PRIO_PROCESS, 0)
        assert nice[pid] == default
        lowered = sorted(value for value in nice.values() if value > default)
        expected = [default + DECODE_NICE] * THREADS + [default + SLOW_DECODE_NICE] * THREADS
        assert lowered == [min(19, value) for value in expected]


@several_cores
def test_threads_are_pinned_only_if_there_is_one_per_core() -> None:
    cores = os.sched_getaffinity(0)

    def pinned_cores(number: int, threads: int) -> set[int]:
        pin_thread(number, threads)
        return os.sched_getaffinity(0)

    def cores_of_threads(threads: int) -> list[set[int]]:
        masks = []
        for number in range(threads):
            with ThreadPoolExecutor(1) as thread:
                masks.append(thread.submit(pinned_cores, number, threads).result())
        return masks

    assert cores_of_threads(len(cores)) == [{core} for core in sorted(cores)]
    assert cores_of_threads(len(cores) + 1) == [cores] * (len(cores) + 1)
    assert os.sched_getaffinity(0) == cores


@several_cores
@pytest.mark.parametrize("pin_cores", [1, 0])
def test_pin_cores_gives_each_decoding_thread_its_own_core(
    model_file: Path, tmp_path: Path, pin_cores: int
) -> None:
    cores = os.sched_getaffinity(0)
    with serving(tmp_path / "log", model_file, threads=len(cores), pin_cores=pin_cores) as server:
        assert server.client.post("/predict", content=plain(1)).status_code == 200
        pid = server.process.pid
        masks = [os.sched_getaffinity(int(task.name)) for task in Path(f"/proc/{pid}/task").iterdir()]
    pinned = sorted(core for mask in masks if mask != cores for core in mask)
    assert pinned == (sorted(cores) if pin_cores else [])
