"""Who computes gives way to the event loop, and stays on a core."""

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from service.host import DECODE_NICE, SLOW_DECODE_NICE, pin_thread
from tests.support.serving.images import plain
from tests.support.serving.server import serving

THREADS = 2
several_cores = pytest.mark.skipif(
    not hasattr(os, "sched_getaffinity") or len(os.sched_getaffinity(0)) < 2, reason="there is one for all"
)


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="threads have a priority on Linux alone")
def test_threads_that_compute_give_way_to_the_event_loop(model_file: Path, tmp_path: Path) -> None:
    with serving(tmp_path / "log", model_file, threads=THREADS) as server:
        assert server.client.post("/predict", content=plain(1)).status_code == 200
        pid = server.process.pid
        found = {
            int(task.name): os.getpriority(os.PRIO_PROCESS, int(task.name))
            for task in Path(f"/proc/{pid}/task").iterdir()
        }
        ours = os.getpriority(os.PRIO_PROCESS, 0)
        assert found[pid] == ours
        lower = sorted(nice for nice in found.values() if nice > ours)
        wanted = [ours + DECODE_NICE] * THREADS + [ours + SLOW_DECODE_NICE] * THREADS
        assert lower == [min(19, nice) for nice in wanted]


@several_cores
def test_a_thread_for_each_core_stays_there_and_others_go_where_they_like() -> None:
    cores = os.sched_getaffinity(0)

    def kept(number: int, threads: int) -> set[int]:
        pin_thread(number, threads)
        return os.sched_getaffinity(0)

    def each(threads: int) -> list[set[int]]:
        found = []
        for number in range(threads):
            with ThreadPoolExecutor(1) as thread:
                found.append(thread.submit(kept, number, threads).result())
        return found

    assert each(len(cores)) == [{core} for core in sorted(cores)]
    assert each(len(cores) + 1) == [cores] * (len(cores) + 1)
    assert os.sched_getaffinity(0) == cores


@several_cores
@pytest.mark.parametrize("pin_cores", [1, 0])
def test_with_pin_cores_each_thread_that_decodes_has_a_core_of_its_own(
    model_file: Path, tmp_path: Path, pin_cores: int
) -> None:
    cores = os.sched_getaffinity(0)
    with serving(tmp_path / "log", model_file, threads=len(cores), pin_cores=pin_cores) as server:
        assert server.client.post("/predict", content=plain(1)).status_code == 200
        pid = server.process.pid
        masks = [os.sched_getaffinity(int(task.name)) for task in Path(f"/proc/{pid}/task").iterdir()]
    pinned = sorted(core for mask in masks if mask != cores for core in mask)
    assert pinned == (sorted(cores) if pin_cores else [])
