"""Who computes gives way to the event loop."""

import os
from pathlib import Path

import pytest

from service.priority import BATCHES, DECODING
from tests.service.images import plain
from tests.service.server import serving

THREADS = 2


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="threads have a priority on Linux alone")
def test_threads_that_compute_give_way_to_the_event_loop(model_file: Path, tmp_path: Path) -> None:
    with serving(tmp_path / "log", model_file, threads=THREADS) as server:
        # one crop that is alone needs no lane
        assert server.client.post("/predict?crops=10", content=plain(1)).status_code == 200
        pid = server.process.pid
        found = {
            int(task.name): os.getpriority(os.PRIO_PROCESS, int(task.name))
            for task in Path(f"/proc/{pid}/task").iterdir()
        }
        ours = os.getpriority(os.PRIO_PROCESS, 0)
        assert found[pid] == ours
        lower = sorted(nice for nice in found.values() if nice > ours)
        inference = 1  # the other lane's thread begins with a second batch
        wanted = [ours + DECODING] * THREADS + [ours + BATCHES] * inference
        assert lower == [min(19, nice) for nice in wanted]
