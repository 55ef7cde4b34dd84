"""Measure the load of the machine and of processes from /proc, and keep a core busy."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Self

STEAL_LIMIT = 2.0  # % of the time of all cores; a run with more steal is repeated


class Watch:
    """Measures a `with` block: `seconds`, and in % of all cores `steal` and `busy`.

    `steal` was taken by other guests of the machine; `busy` is everything that ran on this one.
    """

    seconds = steal = busy = 0.0

    def __enter__(self) -> Self:
        self._start, self._jiffies = time.perf_counter(), _jiffies()
        return self

    def __exit__(self, *_error: object) -> None:
        self.seconds = time.perf_counter() - self._start
        spent = [after - before for before, after in zip(self._jiffies, _jiffies(), strict=True)]
        # user, nice, system, idle, iowait, irq, softirq, steal (proc(5)); guest time is included in user
        total = max(1, sum(spent[:8]))
        self.steal = 100 * spent[7] / total
        self.busy = 100 * (total - spent[3] - spent[4] - spent[7]) / total


@contextmanager
def busy() -> Iterator[None]:
    """Keep the cores of this process busy with a process of the lowest priority."""
    with subprocess.Popen(
        [sys.executable, "-c", "while True: pass"], preexec_fn=partial(os.nice, 19)
    ) as process:
        try:
            yield
        finally:
            process.kill()


def _jiffies() -> list[int]:
    return [int(field) for field in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:]]


def family(pid: int) -> list[int]:
    """Return the process and all of its living descendants."""
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except OSError:
        return []
    return [pid] + [member for child in children for member in family(int(child))]


def memory_mb(pid: int) -> float:
    """Return the peak resident memory of the process and its descendants, in MB of 10^6 bytes."""
    total = 0
    for member in family(pid):
        try:
            status = Path(f"/proc/{member}/status").read_text()
        except OSError:
            continue
        total += sum(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM:"))
    return total * 1024 / 1e6


def cpu_seconds(pid: int) -> float:
    """Return user plus system time of the process and its living descendants, in s."""
    ticks = 0
    for member in family(pid):
        try:
            fields = Path(f"/proc/{member}/stat").read_text().rsplit(") ", 1)[1].split()
        except OSError:
            continue
        ticks += int(fields[11]) + int(fields[12])
    return ticks / 100  # USER_HZ, 100 on every Linux that this runs on
