"""What the machine itself did meanwhile, from Linux's /proc, and keeping it at work."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Self

STEAL_LIMIT = 2.0  # % of all cores' time; a run that lost more to other guests is repeated


class Watch:
    """The time since `with` began: `seconds`, and in % of all cores `steal` (taken by other guests) and
    `busy` (everything that ran here, whoever's it was).
    """

    seconds = steal = busy = 0.0

    def __enter__(self) -> Self:
        self._start, self._jiffies = time.perf_counter(), _jiffies()
        return self

    def __exit__(self, *_error: object) -> None:
        self.seconds = time.perf_counter() - self._start
        spent = [after - before for before, after in zip(self._jiffies, _jiffies(), strict=True)]
        # user, nice, system, idle, iowait, irq, softirq, steal (proc(5)); guest time is in user already
        whole = max(1, sum(spent[:8]))
        self.steal = 100 * spent[7] / whole
        self.busy = 100 * (whole - spent[3] - spent[4] - spent[7]) / whole


@contextmanager
def busy() -> Iterator[None]:
    """No rest for this process' cores: one that computes there gives way to whatever else does."""
    with subprocess.Popen(
        [sys.executable, "-c", "while True: pass"], preexec_fn=partial(os.nice, 19)
    ) as one:
        try:
            yield
        finally:
            one.kill()


def _jiffies() -> list[int]:
    return [int(field) for field in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:]]


def family(pid: int) -> list[int]:
    """The process and all of its descendants that still live."""
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except OSError:
        return []
    return [pid] + [member for child in children for member in family(int(child))]


def memory_mb(pid: int) -> float:
    """Largest resident memory of the process so far, MB of 10^6 bytes, its descendants' added."""
    total = 0
    for member in family(pid):
        try:
            status = Path(f"/proc/{member}/status").read_text()
        except OSError:
            continue
        total += sum(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM:"))
    return total * 1024 / 1e6


def cpu_seconds(pid: int) -> float:
    """User and system time of the process and its living descendants."""
    ticks = 0
    for member in family(pid):
        try:
            fields = Path(f"/proc/{member}/stat").read_text().rsplit(") ", 1)[1].split()
        except OSError:
            continue
        ticks += int(fields[11]) + int(fields[12])
    return ticks / 100  # USER_HZ, 100 on every Linux that this runs on
