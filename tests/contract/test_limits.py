"""Test the limits on cores and memory of both versions of cgroups, including cgroups above."""

import math
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from contract.limits import available_memory, cpu_quota, memory_limit, usable_cores, usable_memory
from tests.support.checkout import ROOT

V2 = "30 23 0:26 {top} /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate"
V1_CPU = "33 32 0:29 {top} /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct"
V1_MEMORY = "34 32 0:30 {top} /sys/fs/cgroup/memory rw master:9 - cgroup cgroup rw,memory"
HYBRID = "35 32 0:31 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw"
OTHER = "23 1 8:1 / / rw - ext4 /dev/sda1 rw\n24 23 0:5 / /odd\\040place rw - tmpfs  rw"


def tree(root: Path, own: str, mounts: str, **files: str) -> Path:
    """Write files of /proc, and `files` below /sys/fs/cgroup; return `root`."""
    proc_files = {"proc/self/cgroup": own, "proc/self/mountinfo": f"{OTHER}\n{mounts}"}
    for name, text in (
        proc_files | {f"sys/fs/cgroup/{name}": text for name, text in files.items()}
    ).items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(f"{text}\n")
    return root


@pytest.mark.parametrize(
    ("own", "mounts", "files", "cpus", "memory"),
    [
        pytest.param(
            "0::/",
            V2.format(top="/"),
            {"cpu.max": "150000 100000", "memory.max": "1000"},
            1.5,
            1000,
            id="a container with a cgroup namespace",
        ),
        pytest.param(
            "0::/system.slice/alexnet.service",
            V2.format(top="/"),
            {
                "system.slice/alexnet.service/cpu.max": "400000 100000",
                "system.slice/alexnet.service/memory.max": "1000",
            },
            4,
            1000,
            id="systemd's CPUQuota and MemoryMax",
        ),
        pytest.param(
            "0::/a.slice/b.slice/c.service",
            V2.format(top="/"),
            {
                "a.slice/cpu.max": "20000 10000",
                "a.slice/memory.max": "3000",
                "a.slice/b.slice/cpu.max": "max 100000",
                "a.slice/b.slice/memory.max": "2000",
                "a.slice/b.slice/c.service/cpu.max": "300000 100000",
                "a.slice/b.slice/c.service/memory.max": "max",
            },
            2,
            2000,
            id="the tightest of the cgroups above",
        ),
        pytest.param(
            "0::/a.slice/b.scope",
            V2.format(top="/"),
            {"a.slice/b.scope/cpu.max": "max 100000", "a.slice/b.scope/memory.max": "max"},
            math.inf,
            math.inf,
            id="no limit",
        ),
        pytest.param(
            r"0::/a\x2db.slice/c d.scope",
            V2.format(top=r"/a\134x2db.slice"),
            {"cpu.max": "500000 100000", "c d.scope/cpu.max": "200000 100000"},
            2,
            math.inf,
            id="names that mountinfo escapes",
        ),
        pytest.param(
            "0::/../other",
            V2.format(top="/"),
            {"cpu.max": "200000 100000", "memory.max": "1000"},
            2,
            1000,
            id="above the namespace",
        ),
        pytest.param(
            "0::/docker/abc",
            V2.format(top="/docker/xyz"),
            {"cpu.max": "200000 100000"},
            2,
            math.inf,
            id="mounted from elsewhere",
        ),
        pytest.param(
            "4:memory:/docker/abc\n3:cpu,cpuacct:/docker/abc\n1:name=systemd:/docker/abc\n0::/docker/abc",
            f"{V1_CPU.format(top='/docker/abc')}\n{V1_MEMORY.format(top='/docker/abc')}\n{HYBRID}",
            {
                "cpu,cpuacct/cpu.cfs_quota_us": "150000",
                "cpu,cpuacct/cpu.cfs_period_us": "50000",
                "memory/memory.limit_in_bytes": "1000",
            },
            3,
            1000,
            id="version 1 in a container",
        ),
        pytest.param(
            "4:memory:/outer/inner\n3:cpu,cpuacct:/outer/inner\n0::/",
            f"{V1_CPU.format(top='/')}\n{V1_MEMORY.format(top='/')}\n{HYBRID}",
            {
                "cpu,cpuacct/cpu.cfs_quota_us": "-1",
                "cpu,cpuacct/outer/cpu.cfs_quota_us": "200000",
                "cpu,cpuacct/outer/cpu.cfs_period_us": "100000",
                "cpu,cpuacct/outer/inner/cpu.cfs_quota_us": "-1",
                "cpu,cpuacct/outer/inner/cpu.cfs_period_us": "100000",
                "memory/memory.limit_in_bytes": "9223372036854771712",
                "memory/outer/memory.limit_in_bytes": "2000",
                "memory/outer/inner/memory.limit_in_bytes": "9223372036854771712",
            },
            2,
            2000,
            id="version 1, nested",
        ),
    ],
)
def test_tightest_limit_counts(
    tmp_path: Path, own: str, mounts: str, files: dict[str, str], cpus: float, memory: float
) -> None:
    root = tree(tmp_path, own, mounts, **files)
    assert (cpu_quota(root), memory_limit(root)) == (cpus, memory)
    assert usable_cores(root) == max(1, int(min(cpus, len(os.sched_getaffinity(0)))))


def test_available_memory_is_the_least_of_machine_and_cgroup(tmp_path: Path) -> None:
    """The usage of a cgroup includes page cache, which the kernel can drop."""
    stat = "anon 500\nfile 350\ninactive_file 200\nactive_file 100\nshmem 50"
    root = tree(
        tmp_path,
        "0::/",
        V2.format(top="/"),
        **{"memory.max": "1000", "memory.current": "900", "memory.stat": stat},
    )
    assert available_memory(root) == 1000 - (900 - 300)
    (root / "proc/meminfo").write_text("MemTotal:  16 kB\nMemAvailable:  2 kB\nHugePages_Total: 0\n")
    assert available_memory(root) == 400
    (root / "sys/fs/cgroup/memory.max").write_text("max\n")
    assert available_memory(root) == 2048
    old = tree(
        tmp_path / "old",
        "9:memory:/",
        V1_MEMORY.format(top="/"),
        **{
            "memory/memory.limit_in_bytes": "1000",
            "memory/memory.usage_in_bytes": "700",
            "memory/memory.stat": "inactive_file 1\ntotal_inactive_file 50\ntotal_active_file 50",
        },
    )
    assert available_memory(old) == 400


def test_usable_memory_is_that_of_the_machine_or_its_limit(tmp_path: Path) -> None:
    root = tree(tmp_path, "0::/", V2.format(top="/"), **{"memory.max": "3000"})
    assert usable_memory(root) == 3000
    (root / "proc/meminfo").write_text("MemTotal:  2 kB\nMemAvailable:  1 kB\n")
    assert usable_memory(root) == 2048
    assert usable_memory(tmp_path / "none") == math.inf


def test_usable_cores_is_at_least_1(tmp_path: Path) -> None:
    assert usable_cores(tree(tmp_path, "0::/", V2.format(top="/"), **{"cpu.max": "5000 100000"})) == 1


def test_no_limits_without_proc(tmp_path: Path) -> None:
    assert (cpu_quota(tmp_path), memory_limit(tmp_path)) == (math.inf, math.inf)
    assert usable_cores(tmp_path) == len(os.sched_getaffinity(0))


@contextmanager
def limited(name: str, quota: int, memory: int) -> Iterator[list[Path]]:
    """Make cgroups `name`/inner on this machine, limited at `name`; yield their cgroup.procs."""
    top, version_1 = Path("/sys/fs/cgroup"), Path("/sys/fs/cgroup/memory")
    with ExitStack() as stack:
        members: list[Path] = []
        for base, files in (
            ({version_1: {"memory.limit_in_bytes": memory}, top / "cpu": {"cpu.cfs_quota_us": quota}})
            if version_1.is_dir()
            else {top: {"cpu.max": f"{quota} 100000", "memory.max": memory}}
        ).items():
            for folder in (base / name, base / name / "inner"):
                folder.mkdir()
                stack.callback(folder.rmdir)
            for file, value in files.items():
                (base / name / file).write_text(str(value))
            members.append(base / name / "inner" / "cgroup.procs")
        yield members


def test_limits_of_a_real_cgroup() -> None:
    code = "from contract.limits import *; print(cpu_quota(), usable_cores(), memory_limit())"
    with ExitStack() as stack:
        try:
            members = stack.enter_context(limited(f"alexnet-{os.getpid()}", 100_000, 300_000_000))
        except OSError as error:
            pytest.skip(f"cannot create a cgroup on this machine: {error}")
        into = "".join(f"echo $$ >{member} && " for member in members)
        done = subprocess.run(
            ["sh", "-c", f'{into} exec "$@"', "-", sys.executable, "-c", code],
            cwd=ROOT,
            capture_output=True,
            text=True,
        )
    quota, cores, memory = done.stdout.split()
    assert (float(quota), cores) == (1.0, "1"), done.stderr
    assert float(memory) == pytest.approx(300_000_000, abs=4096)
