"""Find the cores and the memory that this process may use, under the limits of its cgroups.

A limit may be set on the process's own cgroup or on any above it (a systemd unit in a slice, a container
in a container), in version 1 or 2 of cgroups; the tightest counts. The files of the cgroups are located
through /proc/self/cgroup and /proc/self/mountinfo (cgroups(7), proc(5)). Tests pass another `root` than /.
"""

import math
import os
import re
from functools import cache
from pathlib import Path, PurePosixPath
from typing import Final

ROOT: Final = Path("/")
UNLIMITED_BYTES: Final = 2**62  # version 1 has a larger number where there is no limit


def usable_cores(root: Path = ROOT) -> int:
    """Return how many cores CPU affinity and cgroup quotas leave to this process, at least 1."""
    affinity = getattr(os, "sched_getaffinity", None)
    cores = len(affinity(0)) if affinity else os.cpu_count() or 1
    return max(1, int(min(cores, cpu_quota(root))))


def cpu_quota(root: Path = ROOT) -> float:
    """Return the tightest CPU quota, in CPUs; inf without one."""
    return min((_quota(folder) for folder in _folders("cpu", root)), default=math.inf)


def memory_limit(root: Path = ROOT) -> float:
    """Return the tightest memory limit, in bytes; inf without one."""
    return min((_memory(folder) for folder in _folders("memory", root)), default=math.inf)


def usable_memory(root: Path = ROOT) -> float:
    """Return the memory of the machine, or a tighter limit of the cgroups, in bytes; inf where unknown."""
    machine = _numbers(root / "proc/meminfo").get("MemTotal:", math.inf) * 1024
    return min(machine, memory_limit(root))


def available_memory(root: Path = ROOT) -> float:
    """Return the bytes that this process may still allocate: the least of the machine and the cgroups.

    Page cache that the kernel drops on demand counts as free. inf where unknown.
    """
    machine = _numbers(root / "proc/meminfo").get("MemAvailable:", math.inf) * 1024
    return min([machine, *(_unused(folder) for folder in _folders("memory", root))])


def _quota(folder: Path) -> float:
    if cpu_max := _words(folder / "cpu.max"):
        quota, period = cpu_max[:2]
    else:
        (quota,) = _words(folder / "cpu.cfs_quota_us") or ["max"]
        (period,) = _words(folder / "cpu.cfs_period_us") or ["100000"]
    return math.inf if quota in {"max", "-1"} else int(quota) / int(period)


def _memory(folder: Path) -> float:
    (limit,) = _words(folder / "memory.max") or _words(folder / "memory.limit_in_bytes") or ["max"]
    return math.inf if limit == "max" or int(limit) > UNLIMITED_BYTES else int(limit)


def _unused(folder: Path) -> float:
    """Return the bytes left below the cgroup's limit; its page cache counts as free."""
    (used,) = _words(folder / "memory.current") or _words(folder / "memory.usage_in_bytes") or ["0"]
    numbers = _numbers(folder / "memory.stat")
    # In version 1, the names with `total_` include the cgroups below.
    cached = sum(
        numbers.get(f"total_{name}", numbers.get(name, 0)) for name in ("inactive_file", "active_file")
    )
    return max(0, _memory(folder) - max(0, int(used) - cached))


def _numbers(file: Path) -> dict[str, int]:
    """Parse a file with a name, a number and perhaps a unit on each line."""
    words = (line.split() for line in _lines(file))
    return {parts[0]: int(parts[1]) for parts in words if len(parts) > 1 and parts[1].isdecimal()}


def _lines(file: Path) -> list[str]:
    """Return the lines of a file; none if it is missing, as at the root of a hierarchy."""
    try:
        return file.read_text().splitlines()
    except OSError:
        return []


def _words(file: Path) -> list[str]:
    return " ".join(_lines(file)).split()


@cache
def _folders(controller: str, root: Path) -> list[Path]:
    """Return the folders of the process's cgroup and of those above it, as far as they are mounted."""
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
        mounts = (root / "proc/self/mountinfo").read_text().splitlines()
    except OSError:  # not on Linux
        return []
    # Version 2 has one hierarchy for all controllers; its line names none of them.
    own = {names: path for _number, names, path in (line.split(":", 2) for line in lines)}
    version_1 = next((path for names, path in own.items() if controller in names.split(",")), None)
    folders: list[Path] = []
    for mount in mounts:
        before, _, after = mount.partition(" - ")
        kind, *_source, options = after.split(" ")
        path = {"cgroup": version_1, "cgroup2": own.get("")}.get(kind)
        if path is not None and (kind == "cgroup2" or controller in options.split(",")):
            top, point = map(_unescaped, before.split(" ")[3:5])
            folders += _up(root / point.lstrip("/"), top, path)
    return folders


def _up(point: Path, top: str, path: str) -> list[Path]:
    """Return the folders of the cgroup `path` and of those above it; `top` is mounted at `point`."""
    try:
        below = PurePosixPath(path).relative_to(top)
    except ValueError:  # the cgroup is not mounted, as in a container with the host's /proc
        below = PurePosixPath()
    if ".." in below.parts:  # the cgroup is outside of the cgroup namespace
        below = PurePosixPath()
    return [point / part for part in (below, *below.parents)]


def _unescaped(text: str) -> str:
    """Undo the octal escapes of mountinfo, for spaces and the backslashes in systemd's names."""
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), text)
