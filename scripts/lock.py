"""Lock the packages of the service image: docker/requirements/*.txt with hashes, and docs/licences.md.

pip resolves them for each platform (`--dry-run --report`). The index has versions, hashes and licences, so
that no wheel is downloaded and several gigabytes of CUDA are locked in seconds. pip evaluates the markers
of requirements for the Python that runs this, so it must be the version of the image, on Linux.
"""

import json
import re
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

from scripts.licences import Package, licence_of, normal, page

ROOT: Final = Path(__file__).parents[1]
FOLDER: Final = ROOT / "docker" / "requirements"
# Each image has one of these; the GPU build of ONNX Runtime exists for x86-64 only.
RUNTIMES: Final = {"cpu": ("x86_64", "aarch64"), "gpu": ("x86_64",)}
# What the build argument EXTRAS adds.
EXTRAS: Final = {"heif": RUNTIMES["cpu"], "otel": RUNTIMES["cpu"], "gpu-decode": RUNTIMES["gpu"]}
NEWEST_GLIBC: Final = 36  # Debian 12 has glibc 2.36

Locked = dict[str, tuple[Package, set[str]]]  # by normalised name, with the SHA-256 of the files


def main() -> None:
    base_python = re.search(
        r"^ARG BASE_IMAGE=python:(\d+)\.(\d+)-", (ROOT / "docker/service.Dockerfile").read_text(), re.M
    )
    assert base_python
    if sys.platform != "linux" or sys.version_info[:2] != tuple(map(int, base_python.groups())):
        sys.exit(f"error: this needs Python {'.'.join(base_python.groups())} on Linux, as in the image")
    runtimes = {name: lock([name], machines) for name, machines in RUNTIMES.items()}
    everywhere = set.intersection(*(set(locked) for locked in runtimes.values()))
    extras = {name: lock([name], machines) for name, machines in EXTRAS.items()}
    parts = runtimes | {
        name: {key: entry for key, entry in locked.items() if key not in everywhere}
        for name, locked in extras.items()
    }
    FOLDER.mkdir(exist_ok=True)
    for name, locked in parts.items():
        (FOLDER / f"{name}.txt").write_text(requirements(name, locked))
    (ROOT / "docs/licences.md").write_text(
        page({name: [package for package, _hashes in locked.values()] for name, locked in parts.items()})
    )


def lock(extras: Iterable[str], machines: Iterable[str]) -> Locked:
    """Resolve the requirements of the project and of `extras` for each machine; merge the results."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    requested = [
        *project["dependencies"],
        *(r for e in extras for r in project["optional-dependencies"][e]),
    ]
    locked: Locked = {}
    for machine in machines:
        for entry in resolve(requested, machine):
            about = entry["metadata"]
            licence_fields = (
                about.get("license_expression"),
                about.get("license"),
                about.get("classifier", []),
            )
            package = Package(about["name"], about["version"], licence_of(about["name"], *licence_fields))
            _package, hashes = locked.setdefault(normal(package.name), (package, set()))
            hashes.add(entry["download_info"]["archive_info"]["hashes"]["sha256"])
    return dict(sorted(locked.items()))


def resolve(requested: Iterable[str], machine: str) -> list[dict[str, Any]]:
    platforms = [f"--platform=manylinux_2_{minor}_{machine}" for minor in range(NEWEST_GLIBC, 4, -1)]
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.json"
        command = [sys.executable, "-m", "pip", "install", "-q", "--dry-run", "--ignore-installed"]
        command += ["--target", folder, "--report", str(report), "-c", str(ROOT / "constraints.txt")]
        command += ["--only-binary", ":all:", *platforms, f"--platform=manylinux2014_{machine}", *requested]
        subprocess.run(command, check=True)
        entries: list[dict[str, Any]] = json.loads(report.read_text())["install"]
    for entry in entries:
        # pip evaluates these markers for the machine that it runs on.
        by_machine = [r for r in entry["metadata"].get("requires_dist", []) if "platform_machine" in r]
        assert not by_machine, (
            f"{entry['metadata']['name']} has requirements that depend on the machine: {by_machine}"
        )
    return entries


def requirements(name: str, locked: Locked) -> str:
    base = "" if name in RUNTIMES else "; with cpu.txt or gpu.txt"
    lines = [f"# Written by scripts/lock: what the service's image installs for `{name}`{base}."]
    for key, (package, hashes) in locked.items():
        entry = [f"{key}=={package.version}", *(f"--hash=sha256:{h}" for h in sorted(hashes))]
        lines.append(" \\\n    ".join(entry))
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
